//! Placement against brute force, over generated clusters, requests and changes between them: every cause is true and the first, each
//! host is counted once, who is placed fits, and a hint suffices and is the smallest.
//!
//! The oracle knows the rules and nothing of how they are looked up: it reads hosts as they were given, and finds the smallest change by
//! trying every smaller demand on every host.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Demand;
use rhyzome_model::place::{
    Cluster, Cordon, FitsWith, HostView, ImageNeed, Reach, Reason, Refusal, Request, Verdict,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// So few of each that they often meet.
const HOSTS: usize = 7;
const NETWORKS: u128 = 3;
const IMAGES: u128 = 2;

fn image(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

fn network(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(100 + n))
}

fn name(n: usize) -> HostName {
    HostName(format!("h{n}"))
}

fn demand((vcpus, memory_mib, disk_gib): (i64, i64, i64)) -> Demand {
    Demand {
        vcpus,
        memory_mib,
        disk_gib,
    }
}

/// What happens to the cluster.
#[derive(Clone, Debug)]
enum Event {
    Place(Request),
    Free(usize, Demand),
    Home(u128, Option<usize>),
}

#[derive(Clone, Debug)]
struct Oracle {
    hosts: Vec<HostView>,
    homes: HashMap<ResourceId, HostName>,
}

impl Oracle {
    fn fetches(host: &HostView, request: &Request) -> i64 {
        match request.image {
            Some(need) if !host.images.contains(&need.image) => need.disk_gib,
            Some(_) | None => 0,
        }
    }

    /// Every cause that is true of a host, not only the first.
    fn causes(&self, host: &HostView, request: &Request) -> BTreeSet<Reason> {
        let mut causes = BTreeSet::new();
        let mut when = |is: bool, reason| {
            if is {
                causes.insert(reason);
            }
        };
        when(host.reach == Reach::Unreachable, Reason::Unreachable);
        when(host.cordon == Cordon::Cordoned, Reason::Cordoned);
        for (key, value) in &request.host_labels {
            when(host.labels.get(key) != Some(value), Reason::Label);
        }
        for network in &request.networks {
            let elsewhere = self.homes.get(network).is_some_and(|home| *home != host.name);
            when(elsewhere, Reason::Network);
        }
        when(request.image_refused.contains(&host.name), Reason::Image);
        when(request.apart_from.contains(&host.name), Reason::ApartFrom);
        when(request.refused.contains(&host.name), Reason::Refused);
        let disk = request.demand.disk_gib + Self::fetches(host, request);
        let lacks = |takes: i64, free: i64| takes > 0 && takes > free;
        when(lacks(request.demand.vcpus, host.free.vcpus), Reason::Vcpus);
        when(
            lacks(request.demand.memory_mib, host.free.memory_mib),
            Reason::Memory,
        );
        when(lacks(disk, host.free.disk_gib), Reason::Disk);
        causes
    }

    fn first(&self, host: &HostView, request: &Request) -> Option<Reason> {
        let causes = self.causes(host, request);
        // The order of the contract, written out: not that of the enum.
        [
            Reason::Unreachable,
            Reason::Cordoned,
            Reason::Label,
            Reason::Network,
            Reason::Image,
            Reason::ApartFrom,
            Reason::Refused,
            Reason::Vcpus,
            Reason::Memory,
            Reason::Disk,
        ]
        .into_iter()
        .find(|reason| causes.contains(reason))
    }

    fn fits(&self, request: &Request) -> bool {
        self.hosts.iter().any(|h| self.causes(h, request).is_empty())
    }

    fn reserve(&mut self, at: &HostName, request: &Request) {
        let host = self.hosts.iter_mut().find(|h| h.name == *at).unwrap();
        host.free.vcpus -= request.demand.vcpus;
        host.free.memory_mib -= request.demand.memory_mib;
        host.free.disk_gib -= request.demand.disk_gib + Self::fetches(host, request);
        host.images.extend(request.image.map(|i| i.image));
        for network in &request.networks {
            self.homes.entry(*network).or_insert_with(|| at.clone());
        }
    }

    /// What is given up by the smallest change that fits, in parts per million, of every smaller demand that is allowed.
    fn smallest(&self, request: &Request) -> Option<i64> {
        let asked = request.demand;
        let range = |asked: i64, least: i64| {
            if asked > 0 {
                least.max(1).min(asked)..=asked
            } else {
                asked..=asked
            }
        };
        let mut smallest = None;
        for vcpus in range(asked.vcpus, request.least.vcpus) {
            for memory in range(asked.memory_mib, request.least.memory_mib) {
                for disk in range(asked.disk_gib, request.least.disk_gib) {
                    let demand = demand((vcpus, memory, disk));
                    let changed = Request {
                        demand,
                        ..request.clone()
                    };
                    if self.fits(&changed) {
                        let cost = given_up(asked, demand);
                        smallest = Some(smallest.map_or(cost, |least: i64| least.min(cost)));
                    }
                }
            }
        }
        smallest
    }
}

fn given_up(asked: Demand, smaller: Demand) -> i64 {
    let part = |asked: i64, smaller: i64| {
        if asked > 0 {
            (asked - smaller) * 1_000_000 / asked
        } else {
            0
        }
    };
    part(asked.vcpus, smaller.vcpus)
        + part(asked.memory_mib, smaller.memory_mib)
        + part(asked.disk_gib, smaller.disk_gib)
}

fn with(asked: Demand, hint: FitsWith) -> Demand {
    demand((
        hint.vcpus.unwrap_or(asked.vcpus),
        hint.memory_mib.unwrap_or(asked.memory_mib),
        hint.disk_gib.unwrap_or(asked.disk_gib),
    ))
}

fn any_demand(most: (i64, i64, i64)) -> impl Strategy<Value = Demand> {
    (0..=most.0, 0..=most.1, 0..=most.2).prop_map(demand)
}

fn any_host() -> impl Strategy<Value = HostView> {
    (
        (-1..6_i64, -1..9_i64, -1..7_i64).prop_map(demand),
        prop::collection::btree_map("a|b", "x|y", 0..3),
        prop::collection::btree_set((0..IMAGES).prop_map(image), 0..2),
        prop::sample::select(
            vec![Reach::Reachable; 9]
                .into_iter()
                .chain([Reach::Unreachable])
                .collect::<Vec<_>>(),
        ),
        prop::sample::select(
            vec![Cordon::Open; 9]
                .into_iter()
                .chain([Cordon::Cordoned])
                .collect::<Vec<_>>(),
        ),
    )
        .prop_map(|(free, labels, images, reach, cordon)| HostView {
            name: name(0),
            capacity: demand((6, 9, 7)),
            free,
            labels,
            reach,
            cordon,
            images,
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    let some = |most| prop::collection::vec((0..HOSTS).prop_map(name), 0..most);
    (
        any_demand((5, 8, 6)),
        any_demand((2, 3, 3)),
        prop::collection::btree_map("a|b", "x|y|z", 0..2),
        prop::collection::vec((0..NETWORKS).prop_map(network), 0..3),
        prop::option::of(((0..IMAGES).prop_map(image), 0..3_i64)),
        (some(2), some(2), some(2)),
    )
        .prop_map(
            |(demand, least, host_labels, networks, image, (apart_from, refused, image_refused))| Request {
                demand,
                // Nobody can do with less than what he can't do with less of.
                least: Demand {
                    vcpus: least.vcpus.min(demand.vcpus),
                    memory_mib: least.memory_mib.min(demand.memory_mib),
                    disk_gib: least.disk_gib.min(demand.disk_gib),
                },
                host_labels,
                networks,
                image: image.map(|(image, disk_gib)| ImageNeed { image, disk_gib }),
                apart_from,
                refused,
                image_refused,
            },
        )
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any_request().prop_map(Event::Place),
        1 => (0..HOSTS, (-1..6_i64, -1..9_i64, -1..7_i64)).prop_map(|(h, free)| Event::Free(h, demand(free))),
        1 => (0..NETWORKS, prop::option::of(0..=HOSTS)).prop_map(|(n, h)| Event::Home(n, h)),
    ]
}

fn any_oracle() -> impl Strategy<Value = Oracle> {
    let homes = prop::collection::hash_map((0..NETWORKS).prop_map(network), (0..=HOSTS).prop_map(name), 0..3);
    (prop::collection::vec(any_host(), 0..=HOSTS), homes).prop_map(|(mut hosts, homes)| {
        for (n, host) in hosts.iter_mut().enumerate() {
            host.name = name(n);
        }
        Oracle { hosts, homes }
    })
}

fn placed(cluster: &mut Cluster, oracle: &mut Oracle, request: &Request) -> Result<(), TestCaseError> {
    let explained = cluster.explain(request);
    prop_assert_eq!(explained.len(), oracle.hosts.len());
    for (told, host) in explained.iter().zip(&oracle.hosts) {
        prop_assert_eq!(&told.host, &host.name);
        prop_assert_eq!(told.excluded, oracle.first(host, request), "{}", host.name);
        prop_assert_eq!(told.free, host.free);
    }
    let tried = cluster.judge(request);
    match cluster.place(request) {
        Verdict::Placed(at) => {
            prop_assert!(
                matches!(tried, Verdict::Placed(_)),
                "a dry run says otherwise: {:?}",
                tried
            );
            let host = oracle.hosts.iter().find(|h| h.name == at).unwrap();
            prop_assert_eq!(
                oracle.causes(host, request),
                BTreeSet::new(),
                "placed where it can't be"
            );
            oracle.reserve(&at, request);
        }
        Verdict::NoRoom(refusal) => {
            prop_assert_eq!(
                &tried,
                &Verdict::NoRoom(refusal.clone()),
                "a dry run says otherwise"
            );
            refused(oracle, request, &refusal)?;
        }
    }
    for host in &oracle.hosts {
        prop_assert_eq!(cluster.free(&host.name), Some(host.free));
    }
    Ok(())
}

fn refused(oracle: &Oracle, request: &Request, refusal: &Refusal) -> Result<(), TestCaseError> {
    let mut counted: BTreeMap<Reason, u32> = BTreeMap::new();
    for host in &oracle.hosts {
        let first = oracle.first(host, request);
        prop_assert!(first.is_some(), "refused, and {} fits", host.name);
        *counted.entry(first.unwrap()).or_default() += 1;
    }
    prop_assert_eq!(refusal.total as usize, oracle.hosts.len());
    prop_assert_eq!(refusal.excluded.values().sum::<u32>(), refusal.total);
    prop_assert_eq!(&refusal.excluded, &counted);

    let smallest = oracle.smallest(request);
    prop_assert_eq!(
        refusal.fits_with.is_some(),
        smallest.is_some(),
        "hint {:?}",
        refusal.fits_with
    );
    if let (Some(hint), Some(smallest)) = (refusal.fits_with, smallest) {
        let changed = with(request.demand, hint);
        let suffices = oracle.fits(&Request {
            demand: changed,
            ..request.clone()
        });
        prop_assert!(suffices, "{:?} doesn't suffice", hint);
        prop_assert_eq!(
            given_up(request.demand, changed),
            smallest,
            "{:?} isn't the smallest",
            hint
        );
        let (asked, least) = (request.demand, request.least);
        for (hint, asked, least) in [
            (hint.vcpus, asked.vcpus, least.vcpus),
            (hint.memory_mib, asked.memory_mib, least.memory_mib),
            (hint.disk_gib, asked.disk_gib, least.disk_gib),
        ] {
            let says_what_changes = hint.is_none_or(|h| h < asked && h >= least.max(1));
            prop_assert!(
                says_what_changes,
                "{:?} of {:?}, at least {:?}",
                hint,
                asked,
                least
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn verdicts_are_those_of_brute_force(
        mut oracle in any_oracle(),
        events in prop::collection::vec(any_event(), 1..20),
        seed in any::<u64>(),
    ) {
        let mut cluster = Cluster::new(oracle.hosts.clone(), &oracle.homes, seed);
        for event in events {
            match event {
                // Twice: a request that is refused again is answered from memory.
                Event::Place(request) => {
                    placed(&mut cluster, &mut oracle, &request)?;
                    placed(&mut cluster, &mut oracle, &request)?;
                }
                Event::Free(host, free) => {
                    cluster.set_free(&name(host), free);
                    if let Some(host) = oracle.hosts.get_mut(host) {
                        host.free = free;
                    }
                }
                Event::Home(of, host) => {
                    let home = host.map(name);
                    cluster.set_home(network(of), home.as_ref());
                    match home {
                        Some(home) => oracle.homes.insert(network(of), home),
                        None => oracle.homes.remove(&network(of)),
                    };
                }
            }
        }
    }
}
