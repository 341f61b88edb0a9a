//! Whether a resource may take more of the host that it is on: it can go nowhere else, so that only this one counts.

use super::{FitsWith, Reason, Refusal};
use crate::kinds::Demand;

/// What keeps a resource, for which so much is reserved, from taking `wanted` of a host with so much free; none where there is room.
pub fn grow(free: Demand, reserved: Demand, wanted: Demand) -> Option<Refusal> {
    let amounts = |d: Demand| [d.vcpus, d.memory_mib, d.disk_gib];
    let (free, reserved, wanted) = (amounts(free), amounts(reserved), amounts(wanted));
    let short = [0, 1, 2].map(|i| {
        let more = wanted[i] - reserved[i];
        more > 0 && more > free[i]
    });
    let reasons = [Reason::Vcpus, Reason::Memory, Reason::Disk];
    let (_, reason) = short.into_iter().zip(reasons).find(|(short, _)| *short)?;
    let [vcpus, memory_mib, disk_gib] = [0, 1, 2].map(|i| short[i].then(|| reserved[i] + free[i].max(0)));
    Some(Refusal {
        total: 1,
        excluded: [(reason, 1)].into(),
        fits_with: Some(FitsWith {
            vcpus,
            memory_mib,
            disk_gib,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::grow;
    use crate::kinds::Demand;
    use crate::place::{FitsWith, Reason};

    fn demand(vcpus: i64, memory_mib: i64, disk_gib: i64) -> Demand {
        Demand {
            vcpus,
            memory_mib,
            disk_gib,
        }
    }

    #[test]
    fn only_what_is_added_must_be_free() {
        let (free, has) = (demand(1, 0, -2), demand(2, 1024, 4));
        assert_eq!(grow(free, has, has), None);
        assert_eq!(grow(free, has, demand(3, 512, 4)), None);
        let refusal = grow(free, has, demand(3, 2048, 5)).map(|r| (r.total, r.excluded, r.fits_with));
        let fits = FitsWith {
            vcpus: None,
            memory_mib: Some(1024),
            disk_gib: Some(4),
        };
        assert_eq!(refusal, Some((1, [(Reason::Memory, 1)].into(), Some(fits))));
    }
}
