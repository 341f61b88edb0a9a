//! How likely what goes wrong is in one schedule. Drawn from the seed, each by itself and often nought, so that schedules differ in
//! kind and not in luck alone.

use rand::Rng;
use rand::rngs::StdRng;

/// See the module. Rates are a draw.
#[derive(Clone, Debug)]
pub struct Odds {
    /// A process dies at a point of its path.
    pub crash: f64,
    /// It stops there for a while, and goes on.
    pub pause: f64,
    /// An agent dies: before or after an effect, or a write of its ledger.
    pub agent_crash: f64,
    /// A stored message is lost all the same.
    pub lose: f64,
    /// A message is stored twice.
    pub twice: f64,
    /// A message is taken before others that came earlier.
    pub reorder: f64,
    /// Storing fails, or seems to.
    pub refuse: f64,
    /// A hint, an advisory or a wake-up doesn't come.
    pub deaf: f64,
    /// A call doesn't reach its agent.
    pub call_lost: f64,
    /// An answer doesn't come back.
    pub answer_lost: f64,
    /// A step fails, in one class or another.
    pub step: f64,
    /// A step takes long.
    pub slow: f64,
    /// Of the steps that fail, how many find no room.
    pub no_room: f64,
    /// Of the steps that fail, how many can't succeed.
    pub permanent: f64,
    /// Seconds between two losses of a host, about; 0 for never.
    pub partition_every_s: u64,
    /// Seconds between two losses of all that the bus stores, about; 0 for never.
    pub wipe_every_s: u64,
    /// Seconds between two times that a host is put back to an older copy of its folder, about; 0 for never.
    pub put_back_every_s: u64,
    /// Seconds between two losses of something on a host, about; 0 for never.
    pub lose_every_s: u64,
    /// Agents' clocks are ahead by this, in milliseconds.
    pub agents_ahead_ms: i64,
    /// A scheduler's clock jumps by up to this much.
    pub jump_ms: i64,
    /// What users ask for.
    pub requests: u32,
    /// How long they take to, seconds.
    pub busy_s: u64,
}

impl Odds {
    /// Of a seed's dice.
    pub fn draw(dice: &mut StdRng) -> Self {
        let mut rate = |most: f64| match dice.random_range(0..4) {
            0 | 1 => 0.0,
            2 => most / 5.0,
            _ => most,
        };
        let drawn = Self {
            crash: rate(0.08),
            pause: rate(0.05),
            agent_crash: rate(0.05),
            lose: rate(0.1),
            twice: rate(0.2),
            reorder: rate(0.5),
            refuse: rate(0.15),
            deaf: rate(0.8),
            call_lost: rate(0.2),
            answer_lost: rate(0.2),
            step: rate(0.35),
            slow: rate(0.4),
            no_room: rate(0.8),
            permanent: rate(0.5),
            partition_every_s: dice.random_range(0..3) * 6,
            wipe_every_s: dice.random_range(0..4_u64).saturating_sub(1) * 10,
            agents_ahead_ms: [0, 0, 20_000, -20_000][dice.random_range(0..4)],
            jump_ms: [0, 0, 10_000][dice.random_range(0..3)],
            requests: dice.random_range(8..28),
            busy_s: dice.random_range(5..30),
            put_back_every_s: [0, 0, 0, 6, 12][dice.random_range(0..5)],
            lose_every_s: [0, 0, 5][dice.random_range(0..3)],
        };
        match dice.random_range(0..10) {
            // Hosts refuse again and again: a create comes back to one that it was on.
            0 => Self {
                step: 0.3,
                no_room: 0.9,
                ..drawn
            },
            // Workers die of orders, so often that these are given up.
            1 => Self {
                crash: 0.3,
                pause: 0.0,
                ..drawn
            },
            _ => drawn,
        }
    }
}
