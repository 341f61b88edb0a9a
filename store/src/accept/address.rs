//! Which free address a lease gets: a pure search over a window of the network's range.

use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Offsets from the network's own address that may be given: all but its own, the broadcast's and the gateway's.
pub(super) fn usable(cidr: Ipv4Net) -> std::ops::Range<i64> {
    let size = 1_i64 << (32 - i64::from(cidr.prefix_len()));
    1..(size - 1).max(1)
}

/// The address at an offset.
pub(super) fn at(cidr: Ipv4Net, offset: i64) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).wrapping_add(u32::try_from(offset).unwrap_or(0)))
}

/// The next `window` candidate offsets from `start` on, around the end of the range, the gateway left out.
pub(super) fn candidates(cidr: Ipv4Net, gateway: Ipv4Addr, start: i64, window: i64) -> Vec<i64> {
    let range = usable(cidr);
    let size = range.end - range.start;
    if size <= 0 {
        return Vec::new();
    }
    let first = (start - range.start).rem_euclid(size);
    (0..window.min(size))
        .map(|i| range.start + (first + i) % size)
        .filter(|&offset| at(cidr, offset) != gateway)
        .collect()
}

/// The first `wanted` candidates that nobody has.
pub(super) fn pick(
    cidr: Ipv4Net,
    candidates: &[i64],
    used: &BTreeSet<Ipv4Addr>,
    wanted: usize,
) -> Vec<(i64, Ipv4Addr)> {
    candidates
        .iter()
        .map(|&offset| (offset, at(cidr, offset)))
        .filter(|(_, ip)| !used.contains(ip))
        .take(wanted)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{candidates, pick, usable};
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn never_the_network_the_broadcast_or_the_gateway() {
        let cidr = "10.0.0.0/29".parse().unwrap();
        let gateway: Ipv4Addr = "10.0.0.1".parse().unwrap();
        let all = pick(cidr, &candidates(cidr, gateway, 0, 100), &BTreeSet::new(), 100);
        let ips: Vec<String> = all.iter().map(|(_, ip)| ip.to_string()).collect();
        let mut sorted = ips.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(usable("10.0.0.0/30".parse().unwrap()), 1..3);
    }

    #[test]
    fn goes_on_where_it_stopped_and_around() {
        let cidr = "10.0.0.0/29".parse().unwrap();
        let gateway: Ipv4Addr = "10.0.0.1".parse().unwrap();
        assert_eq!(candidates(cidr, gateway, 5, 3), [5, 6]);
        assert_eq!(candidates(cidr, gateway, 6, 3), [6, 2]);
    }
}
