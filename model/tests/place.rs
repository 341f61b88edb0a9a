//! Placement: properties over batches, against a plain reading of the rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Demand;
use rhyzome_model::place::{
    Cluster, Cordon, FitsWith, HostView, ImageNeed, Reach, Reason, Refusal, Request, Verdict,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

fn name(n: usize) -> HostName {
    HostName(format!("host-{n}"))
}

fn demand(vcpus: i64, memory_mib: i64, disk_gib: i64) -> Demand {
    Demand {
        vcpus,
        memory_mib,
        disk_gib,
    }
}

fn host(n: usize, free: Demand) -> HostView {
    HostView {
        name: name(n),
        capacity: free,
        free,
        labels: BTreeMap::new(),
        reach: Reach::Reachable,
        cordon: Cordon::Open,
        images: BTreeSet::new(),
    }
}

fn small() -> Request {
    Request {
        demand: demand(1, 128, 1),
        ..Request::default()
    }
}

/// The rules, read plainly: what a host takes, and why it can't. The state is changed as the batch goes on.
struct Plain {
    hosts: Vec<HostView>,
    homes: HashMap<ResourceId, HostName>,
}

impl Plain {
    fn take(host: &HostView, request: &Request) -> Demand {
        let extra = request
            .image
            .filter(|i| !host.images.contains(&i.image))
            .map_or(0, |i| i.disk_gib);
        Demand {
            disk_gib: request.demand.disk_gib + extra,
            ..request.demand
        }
    }

    fn cause(&self, host: &HostView, request: &Request) -> Option<Reason> {
        let take = Self::take(host, request);
        let short = |free: i64, take: i64| take > 0 && free < take;
        let causes = [
            (host.reach == Reach::Unreachable, Reason::Unreachable),
            (host.cordon == Cordon::Cordoned, Reason::Cordoned),
            (
                request
                    .host_labels
                    .iter()
                    .any(|(k, v)| host.labels.get(k) != Some(v)),
                Reason::Label,
            ),
            (
                request
                    .networks
                    .iter()
                    .any(|n| self.homes.get(n).is_some_and(|home| *home != host.name)),
                Reason::Network,
            ),
            (request.image_refused.contains(&host.name), Reason::Image),
            (request.apart_from.contains(&host.name), Reason::ApartFrom),
            (request.refused.contains(&host.name), Reason::Refused),
            (short(host.free.vcpus, take.vcpus), Reason::Vcpus),
            (short(host.free.memory_mib, take.memory_mib), Reason::Memory),
            (short(host.free.disk_gib, take.disk_gib), Reason::Disk),
        ];
        causes
            .into_iter()
            .find(|(holds, _)| *holds)
            .map(|(_, reason)| reason)
    }

    fn reserve(&mut self, at: &HostName, request: &Request) {
        let host = self.hosts.iter_mut().find(|h| h.name == *at).unwrap();
        let take = Self::take(host, request);
        host.free.vcpus -= take.vcpus;
        host.free.memory_mib -= take.memory_mib;
        host.free.disk_gib -= take.disk_gib;
        host.images.extend(request.image.map(|i| i.image));
        for network in &request.networks {
            self.homes.entry(*network).or_insert_with(|| at.clone());
        }
    }
}

fn any_host() -> impl Strategy<Value = HostView> {
    let free = (-1..8_i64, -1..1024_i64, -1..12_i64);
    let labels = prop::collection::btree_map("zone|disk", "a|b", 0..3);
    let images = prop::collection::btree_set((0..3_u128).prop_map(id), 0..3);
    let odd = prop::bool::weighted(0.1);
    (free, labels, images, odd, odd).prop_map(|(free, labels, images, unreachable, cordoned)| HostView {
        name: name(0),
        capacity: demand(8, 1024, 12),
        free: demand(free.0, free.1, free.2),
        labels,
        reach: if unreachable {
            Reach::Unreachable
        } else {
            Reach::Reachable
        },
        cordon: if cordoned { Cordon::Cordoned } else { Cordon::Open },
        images,
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let some = || prop::collection::vec((0..8_usize).prop_map(name), 0..2);
    (
        (0..4_i64, 0..300_i64, 0..4_i64),
        prop::collection::btree_map("zone|disk", "a|b|c", 0..2),
        prop::collection::vec((10..14_u128).prop_map(id), 0..3),
        prop::option::of((0..3_u128, 0..3_i64)),
        (some(), some(), some()),
    )
        .prop_map(
            |(d, host_labels, networks, image, (apart_from, refused, image_refused))| Request {
                demand: demand(d.0, d.1, d.2),
                least: Demand::default(),
                host_labels,
                networks,
                image: image.map(|(image, disk_gib)| ImageNeed {
                    image: id(image),
                    disk_gib,
                }),
                apart_from,
                refused,
                image_refused,
            },
        )
}

fn any_cluster(hosts: std::ops::Range<usize>) -> impl Strategy<Value = Plain> {
    let homes = prop::collection::hash_map((10..14_u128).prop_map(id), (0..12_usize).prop_map(name), 0..2);
    (prop::collection::vec(any_host(), hosts), homes).prop_map(|(mut hosts, homes)| {
        for (n, host) in hosts.iter_mut().enumerate() {
            host.name = name(n);
        }
        Plain { hosts, homes }
    })
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain")
            .field("hosts", &self.hosts)
            .field("homes", &self.homes)
            .finish()
    }
}

fn check_batch(mut plain: Plain, batch: &[Request], seed: u64) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::new(plain.hosts.clone(), &plain.homes, seed);
    let mut again = Cluster::new(plain.hosts.clone(), &plain.homes, seed);
    // Twice each: an equal request is answered from memory after a refusal.
    for request in batch.iter().flat_map(|r| [r, r]) {
        let verdict = cluster.place(request);
        prop_assert_eq!(
            &verdict,
            &again.place(request),
            "same seed, same input, same verdict"
        );
        let causes: Vec<Option<Reason>> = plain.hosts.iter().map(|h| plain.cause(h, request)).collect();
        match verdict {
            Verdict::Placed(at) => {
                let found = plain.hosts.iter().position(|h| h.name == at).unwrap();
                prop_assert_eq!(causes[found], None, "placed where it doesn't fit");
                plain.reserve(&at, request);
                prop_assert_eq!(cluster.free(&at), Some(plain.hosts[found].free));
            }
            Verdict::NoRoom(refusal) => {
                let mut counted: BTreeMap<Reason, u32> = BTreeMap::new();
                for cause in causes {
                    prop_assert!(cause.is_some(), "refused although a host fits");
                    *counted.entry(cause.unwrap()).or_default() += 1;
                }
                prop_assert_eq!(refusal.excluded.values().sum::<u32>(), refusal.total);
                prop_assert_eq!(refusal.total as usize, plain.hosts.len());
                prop_assert_eq!(&refusal.excluded, &counted);
                check_hint(&plain, request, &refusal)?;
            }
        }
    }
    Ok(())
}

/// What is said to fit does, and nothing is said only where no smaller demand fits.
fn check_hint(plain: &Plain, request: &Request, refusal: &Refusal) -> Result<(), TestCaseError> {
    let with = |d: Demand| Request {
        demand: d,
        ..request.clone()
    };
    let fits = |r: &Request| plain.hosts.iter().any(|h| plain.cause(h, r).is_none());
    let asked = request.demand;
    if let Some(hint) = refusal.fits_with {
        prop_assert_ne!(hint, FitsWith::default());
        let smaller = demand(
            hint.vcpus.unwrap_or(asked.vcpus),
            hint.memory_mib.unwrap_or(asked.memory_mib),
            hint.disk_gib.unwrap_or(asked.disk_gib),
        );
        prop_assert!(fits(&with(smaller)), "{:?} doesn't fit", hint);
    } else {
        let least = demand(asked.vcpus.min(1), asked.memory_mib.min(1), asked.disk_gib.min(1));
        prop_assert!(!fits(&with(least)), "a smaller demand fits, and no one says so");
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_batch_on_few_hosts(
        plain in any_cluster(0..12),
        batch in prop::collection::vec(any_request(), 1..40),
        seed in any::<u64>(),
    ) {
        check_batch(plain, &batch, seed)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// More hosts than are compared at once.
    #[test]
    fn a_batch_on_many_hosts(
        plain in any_cluster(200..400),
        batch in prop::collection::vec(any_request(), 1..60),
        seed in any::<u64>(),
    ) {
        check_batch(plain, &batch, seed)?;
    }

    /// One host among many fits, and is found.
    #[test]
    fn the_only_host_is_found(hosts in 200..2000_usize, only in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let only = only.index(hosts);
        let views = (0..hosts).map(|n| host(n, if n == only { demand(1, 128, 1) } else { demand(1, 127, 1) }));
        let mut cluster = Cluster::new(views.collect(), &HashMap::new(), seed);
        prop_assert_eq!(cluster.place(&small()), Verdict::Placed(name(only)));
    }

    /// A burst of equal requests over equal hosts: no host gets two more than another gets.
    #[test]
    fn a_burst_spreads(hosts in 2..400_usize, each in 1..8_usize, seed in any::<u64>()) {
        let counts = burst(hosts, hosts * each, &small(), seed);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= 2, "{} to {}", least, most);
    }

    /// Keeping the image counts for no more than a sixteenth of a host.
    #[test]
    fn a_burst_of_one_image_spreads(hosts in 2..40_usize, each in 1..40_usize, seed in any::<u64>()) {
        let request = Request { image: Some(ImageNeed { image: id(1), disk_gib: 1 }), ..small() };
        let counts = burst(hosts, hosts * each, &request, seed);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= ROOM / 16 + 2, "{} to {}", least, most);
    }
}

/// Small requests that a host of [`burst`] has room for.
const ROOM: usize = 64;

fn burst(hosts: usize, requests: usize, request: &Request, seed: u64) -> Vec<usize> {
    let room = demand(ROOM as i64, 128 * ROOM as i64, ROOM as i64 + 1);
    let views = (0..hosts).map(|n| host(n, room)).collect();
    let mut cluster = Cluster::new(views, &HashMap::new(), seed);
    let mut counts = vec![0; hosts];
    for _ in 0..requests {
        match cluster.place(request) {
            Verdict::Placed(at) => counts[at.0.trim_start_matches("host-").parse::<usize>().unwrap()] += 1,
            Verdict::NoRoom(refusal) => panic!("{refusal:?}"),
        }
    }
    counts
}

#[test]
fn schedulers_with_other_seeds_pick_otherwise() {
    let picks = |seed| {
        let views = (0..50).map(|n| host(n, demand(4, 1024, 10))).collect();
        let mut cluster = Cluster::new(views, &HashMap::new(), seed);
        (0..20).map(|_| cluster.place(&small())).collect::<Vec<_>>()
    };
    assert_eq!(picks(1), picks(1));
    let same = picks(1).iter().zip(picks(2)).filter(|(a, b)| **a == *b).count();
    assert!(same < 10, "{same} of 20 alike");
}

#[test]
fn the_image_decides_among_hosts_as_full() {
    let mut views: Vec<HostView> = (0..30).map(|n| host(n, demand(100, 100_000, 1000))).collect();
    views[17].images.insert(id(1));
    let mut cluster = Cluster::new(views, &HashMap::new(), 3);
    let request = Request {
        image: Some(ImageNeed {
            image: id(1),
            disk_gib: 5,
        }),
        ..small()
    };
    assert_eq!(cluster.place(&request), Verdict::Placed(name(17)));
    assert_eq!(
        cluster.free(&name(17)).unwrap().disk_gib,
        999,
        "an image that is kept takes nothing more"
    );
}

#[test]
fn an_image_is_reserved_once_a_host() {
    let mut cluster = Cluster::new(vec![host(0, demand(9, 9000, 20))], &HashMap::new(), 0);
    let request = Request {
        image: Some(ImageNeed {
            image: id(1),
            disk_gib: 5,
        }),
        ..small()
    };
    for left in [14, 13] {
        assert_eq!(cluster.place(&request), Verdict::Placed(name(0)));
        assert_eq!(cluster.free(&name(0)).unwrap().disk_gib, left);
    }
}

#[test]
fn a_network_stays_where_its_first_instance_is() {
    let views = (0..10).map(|n| host(n, demand(3, 1024, 10))).collect();
    let mut cluster = Cluster::new(views, &HashMap::new(), 5);
    let request = Request {
        networks: vec![id(10)],
        ..small()
    };
    let Verdict::Placed(home) = cluster.place(&request) else {
        panic!("there is room")
    };
    assert_eq!(cluster.place(&request), Verdict::Placed(home.clone()));
    assert_eq!(cluster.place(&request), Verdict::Placed(home.clone()));
    let Verdict::NoRoom(refusal) = cluster.place(&request) else {
        panic!("its host is full")
    };
    assert_eq!(
        refusal.excluded,
        BTreeMap::from([(Reason::Network, 9), (Reason::Vcpus, 1)])
    );
    assert_eq!(refusal.fits_with, None);
    cluster.set_free(&home, demand(1, 1024, 10));
    assert_eq!(cluster.place(&request), Verdict::Placed(home));
}

#[test]
fn new_networks_are_spread_over_roomy_hosts() {
    // So large that sixty instances leave a host as good as empty; one of them keeps the image already.
    let mut views: Vec<HostView> = (0..10)
        .map(|n| host(n, demand(10_000, 1_000_000, 100_000)))
        .collect();
    views[3].images.insert(id(1));
    let homes = HashMap::from([(id(100), name(0)), (id(101), name(0))]);
    let mut cluster = Cluster::new(views, &homes, 5);
    let mut made: BTreeMap<HostName, usize> = BTreeMap::from([(name(0), 2)]);
    for n in 0..58 {
        let request = Request {
            networks: vec![id(200 + n)],
            image: Some(ImageNeed {
                image: id(1),
                disk_gib: 1,
            }),
            ..small()
        };
        let Verdict::Placed(home) = cluster.place(&request) else {
            panic!("there is room")
        };
        *made.entry(home).or_default() += 1;
    }
    assert_eq!(made.into_values().collect::<Vec<_>>(), [6; 10]);
}

#[test]
fn networks_with_two_homes_fit_nowhere() {
    let homes = HashMap::from([
        (id(10), name(0)),
        (id(11), name(1)),
        (id(12), HostName::from("gone")),
    ]);
    let views: Vec<HostView> = (0..3).map(|n| host(n, demand(3, 1024, 10))).collect();
    for networks in [vec![id(10), id(11)], vec![id(12)]] {
        let mut cluster = Cluster::new(views.clone(), &homes, 5);
        let Verdict::NoRoom(refusal) = cluster.place(&Request { networks, ..small() }) else {
            panic!("no host has both")
        };
        assert_eq!(refusal.excluded, BTreeMap::from([(Reason::Network, 3)]));
    }
}

#[test]
fn the_smallest_change_that_fits_is_told() {
    let views = vec![
        host(0, demand(4, 512, 10)),
        host(1, demand(1, 1024, 10)),
        host(2, demand(0, 4096, 10)),
    ];
    let mut cluster = Cluster::new(views, &HashMap::new(), 0);
    let Verdict::NoRoom(refusal) = cluster.place(&Request {
        demand: demand(2, 600, 1),
        ..Request::default()
    }) else {
        panic!("no host fits")
    };
    assert_eq!(
        refusal.excluded,
        BTreeMap::from([(Reason::Vcpus, 2), (Reason::Memory, 1)])
    );
    assert_eq!(
        refusal.fits_with,
        Some(FitsWith {
            memory_mib: Some(512),
            ..FitsWith::default()
        })
    );
    let shown = serde_json::to_value(&refusal).unwrap();
    assert_eq!(shown["excluded"]["memory"], 1);
    assert_eq!(shown["fits_with"], serde_json::json!({"memory_mib": 512}));
}

#[test]
fn a_refusal_is_counted_anew_once_something_changed() {
    let large = Request {
        demand: demand(2, 128, 1),
        ..Request::default()
    };
    let mut cluster = Cluster::new(vec![host(0, demand(1, 128, 1))], &HashMap::new(), 0);
    let hint = |cluster: &mut Cluster| match cluster.place(&large) {
        Verdict::NoRoom(refusal) => refusal.fits_with,
        Verdict::Placed(at) => panic!("placed on {at}"),
    };
    assert_eq!(
        hint(&mut cluster),
        Some(FitsWith {
            vcpus: Some(1),
            ..FitsWith::default()
        })
    );
    assert_eq!(cluster.place(&small()), Verdict::Placed(name(0)));
    assert_eq!(hint(&mut cluster), None);
    cluster.set_free(&name(0), demand(2, 128, 1));
    assert_eq!(cluster.place(&large), Verdict::Placed(name(0)));
}

#[test]
fn a_dry_run_reserves_nothing() {
    let cluster = Cluster::new(vec![host(0, demand(1, 128, 1))], &HashMap::new(), 0);
    assert_eq!(cluster.judge(&small()), Verdict::Placed(name(0)));
    assert_eq!(cluster.judge(&small()), Verdict::Placed(name(0)));
}

#[test]
fn no_hosts_at_all() {
    let mut cluster = Cluster::new(Vec::new(), &HashMap::new(), 0);
    let empty = Refusal {
        total: 0,
        excluded: BTreeMap::new(),
        fits_with: None,
    };
    assert_eq!(cluster.place(&small()), Verdict::NoRoom(empty));
    assert!(cluster.is_empty());
}
