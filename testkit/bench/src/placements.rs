//! Placements a second: hosts of several sizes, labels and images, partly full; each request on a network that has no home yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::Demand;
use rhyzome_model::place::{Cluster, Cordon, HostView, ImageNeed, Reach, Request, Verdict};
use uuid::Uuid;

/// For these numbers of hosts.
pub(crate) const HOSTS: [u32; 3] = [100, 1_000, 10_000];
const EACH: Duration = Duration::from_secs(2);
/// Placed on one cluster before it is made anew, per host: it fills, but never up.
const PER_HOST: u32 = 20;
const ZONES: [&str; 3] = ["a", "b", "c"];
const IMAGES: u128 = 4;

/// By number of hosts.
pub(crate) fn measure() -> Result<BTreeMap<u32, f64>> {
    eprintln!("placements");
    HOSTS
        .into_iter()
        .map(|hosts| Ok((hosts, per_second(hosts)?)))
        .collect()
}

fn per_second(hosts: u32) -> Result<f64> {
    let (mut placed, mut took, mut seed) = (0_u64, Duration::ZERO, 0_u64);
    while took < EACH {
        seed += 1;
        let mut cluster = Cluster::new((0..hosts).map(host).collect(), &HashMap::new(), seed);
        let requests: Vec<Request> = (0..hosts * PER_HOST).map(request).collect();
        let began = Instant::now();
        for request in &requests {
            if let Verdict::NoRoom(refusal) = cluster.place(request) {
                bail!("no room among {hosts} hosts: {refusal:?}");
            }
            placed += 1;
            if placed.is_multiple_of(256) && began.elapsed() + took >= EACH {
                break;
            }
        }
        took += began.elapsed();
    }
    Ok(placed as f64 / took.as_secs_f64())
}

fn host(n: u32) -> HostView {
    let capacity = Demand {
        vcpus: 512,
        memory_mib: 1 << 20,
        disk_gib: 20_000,
    };
    // From all free to two thirds taken.
    let taken = i64::from(n % 7) * 10;
    HostView {
        name: HostName(format!("host-{n}")),
        capacity,
        free: Demand {
            vcpus: capacity.vcpus * (100 - taken) / 100,
            memory_mib: capacity.memory_mib * (100 - taken) / 100,
            disk_gib: capacity.disk_gib * (100 - taken) / 100,
        },
        labels: BTreeMap::from([("zone".to_owned(), ZONES[n as usize % ZONES.len()].to_owned())]),
        reach: if n % 101 == 100 {
            Reach::Unreachable
        } else {
            Reach::Reachable
        },
        cordon: if n % 53 == 52 {
            Cordon::Cordoned
        } else {
            Cordon::Open
        },
        images: (0..IMAGES)
            .filter(|image| (u128::from(n) + image) % 3 == 0)
            .map(image)
            .collect::<BTreeSet<_>>(),
    }
}

fn image(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n + 1))
}

fn request(n: u32) -> Request {
    let host_labels = if n.is_multiple_of(4) {
        BTreeMap::from([("zone".to_owned(), ZONES[n as usize / 4 % ZONES.len()].to_owned())])
    } else {
        BTreeMap::new()
    };
    Request {
        demand: Demand {
            vcpus: 1 + i64::from(n % 2),
            memory_mib: 512,
            disk_gib: 10,
        },
        host_labels,
        networks: vec![ResourceId(Uuid::from_u128(1_000 + u128::from(n)))],
        image: Some(ImageNeed {
            image: image(u128::from(n) % IMAGES),
            disk_gib: 2,
        }),
        ..Request::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_fits() {
        let hosts = HOSTS[0];
        let mut cluster = Cluster::new((0..hosts).map(host).collect(), &HashMap::new(), 1);
        for n in 0..hosts * PER_HOST {
            assert!(
                matches!(cluster.place(&request(n)), Verdict::Placed(_)),
                "request {n}"
            );
        }
    }
}
