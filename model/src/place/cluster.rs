//! The hosts, as placement changes them.
//!
//! Flat rows of numbers by a host's index, since thousands are looked at for one request. Building one costs some microseconds a
//! host: a scheduler keeps it and corrects it.

use super::score::{self, Fetch, Score, Tie};
use super::{Cordon, FitsWith, HostVerdict, HostView, Reach, Reason, Refusal, Request, Verdict};
use crate::ids::{HostName, ResourceId};
use crate::kinds::Demand;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Hosts compared for one request where there are many, of those that may fit.
const PROBES: usize = 64;
/// Further hosts compared of those that keep the image already.
const KEEPER_PROBES: usize = 16;

/// The numbers of a [`Demand`], to go through: vcpus, memory, disk.
type Amounts = [i64; 3];
const DISK: usize = 2;

fn amounts(d: Demand) -> Amounts {
    [d.vcpus, d.memory_mib, d.disk_gib]
}

fn demand([vcpus, memory_mib, disk_gib]: Amounts) -> Demand {
    Demand {
        vcpus,
        memory_mib,
        disk_gib,
    }
}

/// The part of a host that every look at it needs.
#[derive(Clone, Debug)]
struct Row {
    free: Amounts,
    capacity: Amounts,
    shut: Option<Reason>,
    /// Networks that live here.
    homes: u32,
}

/// Where a network lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// On none of the cluster's hosts.
    Elsewhere,
    /// On this one.
    Host(u32),
}

/// Hosts with what is free there, changed as requests are placed.
#[derive(Debug)]
pub struct Cluster {
    names: Vec<HostName>,
    index: HashMap<HostName, u32>,
    rows: Vec<Row>,
    /// Key, value: hosts, ascending.
    labels: HashMap<String, HashMap<String, Vec<u32>>>,
    keepers: HashMap<ResourceId, Keepers>,
    homes: HashMap<ResourceId, Home>,
    tie: Tie,
    /// The last request that was refused, while nothing changed since: a full cluster is asked the same again and again.
    refused: Option<(Request, Refusal)>,
}

/// The hosts that keep an image: to draw from, and to ask.
#[derive(Debug, Default)]
struct Keepers {
    hosts: Vec<u32>,
    bits: Vec<u64>,
}

impl Keepers {
    const NONE: &'static Self = &Self {
        hosts: Vec::new(),
        bits: Vec::new(),
    };

    fn has(&self, host: u32) -> bool {
        self.bits
            .get(host as usize / 64)
            .is_some_and(|word| word >> (host % 64) & 1 == 1)
    }

    fn add(&mut self, host: u32) {
        if !self.has(host) {
            let word = host as usize / 64;
            self.bits.resize(self.bits.len().max(word + 1), 0);
            self.bits[word] |= 1 << (host % 64);
            self.hosts.push(host);
        }
    }
}

/// A request in the cluster's terms.
struct Asked<'a> {
    demand: Amounts,
    least: Amounts,
    labels: Vec<&'a [u32]>,
    home: Option<Home>,
    /// It has a network that lives nowhere yet.
    brings_network: bool,
    keepers: Option<&'a Keepers>,
    image_gib: i64,
    image_refused: Vec<u32>,
    apart_from: Vec<u32>,
    refused: Vec<u32>,
}

/// The hosts among which one is looked for.
#[derive(Clone, Copy)]
enum Among<'a> {
    All(u32),
    These(&'a [u32]),
}

impl Among<'_> {
    fn len(self) -> usize {
        match self {
            Self::All(n) => n as usize,
            Self::These(hosts) => hosts.len(),
        }
    }

    fn at(self, i: usize) -> u32 {
        match self {
            Self::All(_) => i as u32,
            Self::These(hosts) => hosts[i],
        }
    }
}

impl Cluster {
    /// Hosts, and where networks live that are somewhere already. Schedulers take different seeds.
    pub fn new(hosts: Vec<HostView>, homes: &HashMap<ResourceId, HostName>, seed: u64) -> Self {
        let mut cluster = Self {
            names: Vec::with_capacity(hosts.len()),
            index: HashMap::with_capacity(hosts.len()),
            rows: Vec::with_capacity(hosts.len()),
            labels: HashMap::new(),
            keepers: HashMap::new(),
            homes: HashMap::with_capacity(homes.len()),
            tie: Tie::new(seed),
            refused: None,
        };
        for host in hosts {
            cluster.add(host);
        }
        for (network, home) in homes {
            cluster.set_home(*network, Some(home));
        }
        cluster
    }

    fn add(&mut self, host: HostView) {
        let at = self.rows.len() as u32;
        let shut = match (host.reach, host.cordon) {
            (Reach::Unreachable, Cordon::Open | Cordon::Cordoned) => Some(Reason::Unreachable),
            (Reach::Reachable, Cordon::Cordoned) => Some(Reason::Cordoned),
            (Reach::Reachable, Cordon::Open) => None,
        };
        self.rows.push(Row {
            free: amounts(host.free),
            capacity: amounts(host.capacity),
            shut,
            homes: 0,
        });
        for (key, value) in host.labels {
            self.labels
                .entry(key)
                .or_default()
                .entry(value)
                .or_default()
                .push(at);
        }
        for image in host.images {
            self.keepers.entry(image).or_default().add(at);
        }
        self.index.insert(host.name.clone(), at);
        self.names.push(host.name);
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is free on a host, after what was placed.
    pub fn free(&self, host: &HostName) -> Option<Demand> {
        Some(demand(self.rows.get(self.at(host)?)?.free))
    }

    /// Says what is free on a host, where the database knows better than this.
    pub fn set_free(&mut self, host: &HostName, free: Demand) {
        self.refused = None;
        if let Some(row) = self.at(host).and_then(|at| self.rows.get_mut(at)) {
            row.free = amounts(free);
        }
    }

    /// Says where a network lives, or that it lives nowhere yet.
    pub fn set_home(&mut self, network: ResourceId, home: Option<&HostName>) {
        self.refused = None;
        let before = match home {
            None => self.homes.remove(&network),
            Some(host) => {
                let home = self.index.get(host).map_or(Home::Elsewhere, |at| Home::Host(*at));
                if let Some(row) = self.row_of(home) {
                    row.homes += 1;
                }
                self.homes.insert(network, home)
            }
        };
        if let Some(row) = before.and_then(|before| self.row_of(before)) {
            row.homes = row.homes.saturating_sub(1);
        }
    }

    fn row_of(&mut self, home: Home) -> Option<&mut Row> {
        match home {
            Home::Elsewhere => None,
            Home::Host(at) => self.rows.get_mut(at as usize),
        }
    }

    /// Places a request and reserves what it takes, or says why it can't.
    pub fn place(&mut self, request: &Request) -> Verdict {
        if let Some(refusal) = self.refused_before(request) {
            return Verdict::NoRoom(refusal.clone());
        }
        self.tie.next_request();
        match self.choose(request) {
            Ok(host) => {
                self.reserve(host, request);
                Verdict::Placed(self.names[host as usize].clone())
            }
            Err(refusal) => {
                self.refused = Some((request.clone(), refusal.clone()));
                Verdict::NoRoom(refusal)
            }
        }
    }

    /// The verdict on a request, with nothing reserved: for a dry run.
    pub fn judge(&self, request: &Request) -> Verdict {
        match self.choose(request) {
            Ok(host) => Verdict::Placed(self.names[host as usize].clone()),
            Err(refusal) => Verdict::NoRoom(refusal),
        }
    }

    /// What each host has to say to a request, in the order of the hosts; nothing is reserved.
    pub fn explain(&self, request: &Request) -> Vec<HostVerdict> {
        let asked = self.asked(request);
        (0_u32..)
            .zip(self.names.iter().zip(&self.rows))
            .map(|(at, (name, row))| HostVerdict {
                host: name.clone(),
                excluded: self.exclusion(&asked, at, &asked.take(at)),
                free: demand(row.free),
            })
            .collect()
    }

    /// Equal but for networks that bind neither of them.
    fn refused_before(&self, request: &Request) -> Option<&Refusal> {
        let (before, refusal) = self.refused.as_ref()?;
        let free = |r: &Request| r.networks.iter().all(|n| !self.homes.contains_key(n));
        let same = before.demand == request.demand
            && before.least == request.least
            && before.host_labels == request.host_labels
            && before.image == request.image
            && before.apart_from == request.apart_from
            && before.refused == request.refused
            && before.image_refused == request.image_refused
            && (before.networks == request.networks || (free(before) && free(request)));
        same.then_some(refusal)
    }

    fn at(&self, host: &HostName) -> Option<usize> {
        self.index.get(host).map(|at| *at as usize)
    }

    fn asked(&self, request: &Request) -> Asked<'_> {
        let known = |hosts: &[HostName]| hosts.iter().filter_map(|h| self.index.get(h).copied()).collect();
        let labelled = |(key, value): (&String, &String)| {
            self.labels
                .get(key)
                .and_then(|values| values.get(value))
                .map_or(&[][..], Vec::as_slice)
        };
        let mut home = None;
        for at in request.networks.iter().filter_map(|n| self.homes.get(n).copied()) {
            // Two homes are none: the instance would have to be on both.
            home = Some(if home.is_none_or(|other| other == at) {
                at
            } else {
                Home::Elsewhere
            });
        }
        Asked {
            demand: amounts(request.demand),
            least: amounts(request.least),
            labels: request.host_labels.iter().map(labelled).collect(),
            home,
            brings_network: request.networks.iter().any(|n| !self.homes.contains_key(n)),
            keepers: request
                .image
                .map(|i| self.keepers.get(&i.image).unwrap_or(Keepers::NONE)),
            image_gib: request.image.map_or(0, |i| i.disk_gib),
            image_refused: known(&request.image_refused),
            apart_from: known(&request.apart_from),
            refused: known(&request.refused),
        }
    }

    fn choose(&self, request: &Request) -> Result<u32, Refusal> {
        let asked = self.asked(request);
        self.sample(&asked).map_or_else(|| self.scan(&asked), Ok)
    }

    /// The best of some hosts: of all that may fit, where those are few. None says nothing about the others.
    fn sample(&self, asked: &Asked<'_>) -> Option<u32> {
        let home;
        let fewest = asked.labels.iter().min_by_key(|hosts| hosts.len());
        let among = match (asked.home, fewest) {
            (Some(Home::Elsewhere), _) => return None,
            (Some(Home::Host(at)), _) => {
                home = [at];
                Among::These(&home)
            }
            (None, Some(hosts)) => Among::These(hosts),
            (None, None) => Among::All(self.rows.len() as u32),
        };
        let score = |host: u32| self.score(asked, host).map(|score| (score, host));
        let best = if among.len() <= 2 * PROBES {
            (0..among.len()).filter_map(|i| score(among.at(i))).min()
        } else {
            let keepers = asked.keepers.map_or(&[][..], |k| &k.hosts);
            let near = self
                .tie
                .probes(KEEPER_PROBES, keepers.len())
                .filter_map(|i| score(keepers[i]))
                .min();
            let far = self
                .tie
                .probes(PROBES, among.len())
                .filter_map(|i| score(among.at(i)))
                .min();
            near.into_iter().chain(far).min()
        };
        best.map(|(_, host)| host)
    }

    /// The best of all hosts, or what keeps each from it.
    fn scan(&self, asked: &Asked<'_>) -> Result<u32, Refusal> {
        let mut best: Option<(Score, u32)> = None;
        let mut counts = [0_u32; Reason::ALL.len()];
        let mut nearest: Option<(u64, Amounts)> = None;
        for (at, row) in (0_u32..).zip(&self.rows) {
            let take = asked.take(at);
            let Some(reason) = self.exclusion(asked, at, &take) else {
                let found = (self.rate(asked, at, &take), at);
                best = Some(best.map_or(found, |other| other.min(found)));
                continue;
            };
            counts[reason as usize] += 1;
            if best.is_none()
                && reason >= Reason::Vcpus
                && let Some(smaller) = asked.shrunk(at, &row.free)
            {
                let cost = score::shortfall(&asked.demand, &smaller);
                if nearest.is_none_or(|(least, _)| cost < least) {
                    nearest = Some((cost, smaller));
                }
            }
        }
        best.map(|(_, host)| host).ok_or_else(|| Refusal {
            total: self.rows.len() as u32,
            excluded: Reason::ALL
                .iter()
                .copied()
                .zip(counts)
                .filter(|(_, n)| *n > 0)
                .collect(),
            fits_with: nearest.map(|(_, smaller)| asked.difference(&smaller)),
        })
    }

    /// How well a host suits, if it fits.
    fn score(&self, asked: &Asked<'_>, host: u32) -> Option<Score> {
        let take = asked.take(host);
        self.exclusion(asked, host, &take)
            .is_none()
            .then(|| self.rate(asked, host, &take))
    }

    /// How well a host suits that fits.
    fn rate(&self, asked: &Asked<'_>, host: u32, take: &Amounts) -> Score {
        let row = &self.rows[host as usize];
        Score::new(
            score::load(&row.capacity, &row.free, take),
            if asked.brings_network { row.homes } else { 0 },
            asked.fetch(host),
            self.tie.of(host),
        )
    }

    /// The first cause for which a host can't take a request.
    fn exclusion(&self, asked: &Asked<'_>, host: u32, take: &Amounts) -> Option<Reason> {
        let row = &self.rows[host as usize];
        if row.shut.is_some() {
            return row.shut;
        }
        let short = |i: usize| take[i] > 0 && row.free[i] < take[i];
        if asked
            .labels
            .iter()
            .any(|hosts| hosts.binary_search(&host).is_err())
        {
            Some(Reason::Label)
        } else if asked.home.is_some_and(|home| home != Home::Host(host)) {
            Some(Reason::Network)
        } else if asked.image_refused.contains(&host) {
            Some(Reason::Image)
        } else if asked.apart_from.contains(&host) {
            Some(Reason::ApartFrom)
        } else if asked.refused.contains(&host) {
            Some(Reason::Refused)
        } else if short(0) {
            Some(Reason::Vcpus)
        } else if short(1) {
            Some(Reason::Memory)
        } else if short(DISK) {
            Some(Reason::Disk)
        } else {
            None
        }
    }

    fn reserve(&mut self, host: u32, request: &Request) {
        self.refused = None;
        let mut take = amounts(request.demand);
        if let Some(need) = request.image {
            let keepers = self.keepers.entry(need.image).or_default();
            if !keepers.has(host) {
                take[DISK] += need.disk_gib;
                keepers.add(host);
            }
        }
        for (free, taken) in self.rows[host as usize].free.iter_mut().zip(take) {
            *free -= taken;
        }
        for network in &request.networks {
            if let Entry::Vacant(nowhere) = self.homes.entry(*network) {
                nowhere.insert(Home::Host(host));
                self.rows[host as usize].homes += 1;
            }
        }
    }
}

impl Asked<'_> {
    fn fetch(&self, host: u32) -> Fetch {
        match self.keepers {
            Some(keepers) if !keepers.has(host) => Fetch::Needed,
            Some(_) | None => Fetch::None,
        }
    }

    /// What it takes of this host, the image's file included where it isn't kept there.
    fn take(&self, host: u32) -> Amounts {
        let mut take = self.demand;
        take[DISK] += self.extra(host);
        take
    }

    fn extra(&self, host: u32) -> i64 {
        match self.fetch(host) {
            Fetch::Needed => self.image_gib,
            Fetch::None => 0,
        }
    }

    /// The largest demand, no larger than the one asked for, that a host has free; none where that is less than can be done with.
    fn shrunk(&self, host: u32, free: &Amounts) -> Option<Amounts> {
        let extra = self.extra(host);
        let mut left = *free;
        left[DISK] -= extra;
        // No smaller demand makes room for the image's file.
        if extra > 0 && left[DISK] < 0 {
            return None;
        }
        let mut smaller = self.demand;
        for ((amount, left), least) in smaller.iter_mut().zip(left).zip(self.least) {
            if *amount > 0 && *amount > left {
                if left < least.max(1) {
                    return None;
                }
                *amount = left;
            }
        }
        Some(smaller)
    }

    fn difference(&self, smaller: &Amounts) -> FitsWith {
        let [vcpus, memory_mib, disk_gib] =
            [0, 1, DISK].map(|i| (smaller[i] != self.demand[i]).then_some(smaller[i]));
        FitsWith {
            vcpus,
            memory_mib,
            disk_gib,
        }
    }
}
