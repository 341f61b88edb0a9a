//! What makes one host better than another, and the seeded choice among equals.

/// What a load of 1 is.
const WHOLE: i64 = 1 << 20;
/// A step of [`Score::crowding`]: a sixteenth of a host.
const CROWDING_STEP: u32 = 1 << 16;

/// How well a host suits a request; the least is the best. The order of the fields is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// How full the host would be, in sixteenths. It stands before `fetch` so that a burst of one image doesn't pile up on
    /// the host that fetched it first: keeping the image outweighs a sixteenth of a host, not more.
    crowding: u32,
    /// Networks that live on the host, where the request brings one that lives nowhere yet. A network draws all its later instances to
    /// its home, so that those that are still small are no equals of a host that has none.
    homes: u32,
    /// Whether the image has to be fetched.
    fetch: Fetch,
    /// How full the host would be, exactly.
    load: u32,
    /// Among equals, by the seed.
    tie: u64,
}

/// Whether an image has to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fetch {
    /// It is kept already, or none is needed.
    None,
    /// It has to come first.
    Needed,
}

impl Score {
    pub(super) fn new(load: u32, homes: u32, fetch: Fetch, tie: u64) -> Self {
        Self {
            crowding: load / CROWDING_STEP,
            homes,
            fetch,
            load,
            tie,
        }
    }
}

/// How full a host is with this too, by its scarcest part, in parts of 2^20.
pub(super) fn load(capacity: &[i64; 3], free: &[i64; 3], take: &[i64; 3]) -> u32 {
    let mut most = 0;
    for i in 0..3 {
        if capacity[i] > 0 {
            let used = (capacity[i] - free[i] + take[i]).max(0);
            most = most.max(used.saturating_mul(WHOLE) / capacity[i]);
        }
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// How much smaller the second demand is, by the sum of the relative differences, in parts per million.
pub(super) fn shortfall(asked: &[i64; 3], smaller: &[i64; 3]) -> u64 {
    let mut cost = 0_u64;
    for (asked, smaller) in asked.iter().zip(smaller) {
        if *asked > 0 {
            cost += ((asked - smaller).max(0).saturating_mul(1_000_000) / asked).unsigned_abs();
        }
    }
    cost
}

/// Random numbers that depend on the seed and the number of the request alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tie {
    seed: u64,
    request: u64,
}

impl Tie {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed: mix(seed),
            request: 0,
        }
    }

    pub(super) fn next_request(&mut self) {
        self.request += 1;
    }

    /// A host's place among equals, for this request.
    pub(super) fn of(&self, host: u32) -> u64 {
        mix(self.state() ^ u64::from(host))
    }

    /// `count` positions below `len`, perhaps some twice; none of nothing.
    pub(super) fn probes(&self, count: usize, len: usize) -> impl Iterator<Item = usize> + use<> {
        let state = !self.state();
        let count = if len == 0 { 0 } else { count as u64 };
        // The upper half of the product spreads 64 random bits evenly over `len`.
        (0..count).map(move |i| ((u128::from(mix(state.wrapping_add(i))) * len as u128) >> 64) as usize)
    }

    fn state(&self) -> u64 {
        mix(self.seed.wrapping_add(self.request))
    }
}

/// SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
