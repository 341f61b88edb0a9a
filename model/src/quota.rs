//! Quotas: how much of what a tenant may have. Pure: limits, what is used and what is asked in; what is over out.

use crate::kinds::{Demand, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What of a tenant is counted, and can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dimension {
    /// Resources of a kind, from the acceptance of the create until they are gone.
    Resources(Kind),
    /// Virtual processors of all of them.
    Vcpus,
    /// MiB.
    MemoryMib,
    /// GiB.
    DiskGib,
}

impl Dimension {
    /// Every dimension: those of the kinds come from the kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.iter().map(|kind| Self::Resources(*kind)).chain([
            Self::Vcpus,
            Self::MemoryMib,
            Self::DiskGib,
        ])
    }

    /// `instances`, `vcpus`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resources(kind) => kind.plural(),
            Self::Vcpus => "vcpus",
            Self::MemoryMib => "memory_mib",
            Self::DiskGib => "disk_gib",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no dimension.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} can't be limited: one of {can}", can = names())]
pub struct UnknownDimension {
    word: String,
}

fn names() -> String {
    Dimension::all()
        .map(Dimension::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl FromStr for Dimension {
    type Err = UnknownDimension;

    fn from_str(word: &str) -> Result<Self, UnknownDimension> {
        Self::all()
            .find(|d| d.as_str() == word)
            .ok_or_else(|| UnknownDimension {
                word: word.to_owned(),
            })
    }
}

impl TryFrom<String> for Dimension {
    type Error = UnknownDimension;

    fn try_from(word: String) -> Result<Self, UnknownDimension> {
        word.parse()
    }
}

impl From<Dimension> for String {
    fn from(dimension: Dimension) -> Self {
        dimension.as_str().to_owned()
    }
}

/// So much of each dimension; what isn't named is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<Dimension, i64>);

impl Amounts {
    /// What one more resource of this kind takes.
    pub fn of_new(kind: Kind, demand: Demand) -> Self {
        let mut amounts = Self::of_demand(demand);
        amounts.add(Dimension::Resources(kind), 1);
        amounts
    }

    /// What a demand takes.
    pub fn of_demand(demand: Demand) -> Self {
        let mut amounts = Self::default();
        amounts.add(Dimension::Vcpus, demand.vcpus);
        amounts.add(Dimension::MemoryMib, demand.memory_mib);
        amounts.add(Dimension::DiskGib, demand.disk_gib);
        amounts
    }

    /// Of one dimension.
    pub fn get(&self, dimension: Dimension) -> i64 {
        self.0.get(&dimension).copied().unwrap_or(0)
    }

    /// So much more of one dimension.
    pub fn add(&mut self, dimension: Dimension, amount: i64) {
        let total = self.0.entry(dimension).or_default();
        *total = total.saturating_add(amount);
    }

    /// So much more of each.
    pub fn add_all(&mut self, other: &Self) {
        for (dimension, amount) in &other.0 {
            self.add(*dimension, *amount);
        }
    }
}

/// What a tenant may have at most; what isn't named isn't limited.
pub type Limits = BTreeMap<Dimension, i64>;

/// A limit that a request would pass; its fields are the members of the problem `QUOTA_EXCEEDED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exceeded {
    /// Of what.
    #[serde(rename = "quota")]
    pub dimension: Dimension,
    /// What the tenant may have.
    pub limit: i64,
    /// What it has.
    pub used: i64,
    /// What the request would add.
    pub asked: i64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dimension,
            limit,
            used,
            asked,
        } = self;
        write!(f, "{dimension}: {used} of {limit} used, {asked} more asked")
    }
}

/// The limits that a request would pass. What it doesn't add to stays as it is, even above its limit.
pub fn exceeded(limits: &Limits, used: &Amounts, asked: &Amounts) -> Vec<Exceeded> {
    let over = limits.iter().map(|(dimension, limit)| Exceeded {
        dimension: *dimension,
        limit: *limit,
        used: used.get(*dimension),
        asked: asked.get(*dimension),
    });
    over.filter(|e| e.asked > 0 && e.used.saturating_add(e.asked) > e.limit)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::{Amounts, Dimension, Exceeded, Limits, exceeded};
    use crate::kinds::{Demand, Kind};

    fn demand(vcpus: i64, memory_mib: i64) -> Demand {
        Demand {
            vcpus,
            memory_mib,
            disk_gib: 1,
        }
    }

    #[test]
    fn every_dimension_is_read_as_it_is_written() {
        for dimension in Dimension::all() {
            assert_eq!(dimension.as_str().parse::<Dimension>().unwrap(), dimension);
        }
        let error = "cpus".parse::<Dimension>().unwrap_err().to_string();
        assert!(
            error.contains("\"cpus\"") && error.contains("instances") && error.contains("vcpus"),
            "{error}"
        );
    }

    #[test]
    fn what_is_added_counts_up_to_the_limit_and_no_further() {
        let instances = Dimension::Resources(Kind::Instance);
        let limits = Limits::from([(instances, 2), (Dimension::Vcpus, 4)]);
        let one = Amounts::of_new(Kind::Instance, demand(2, 512));
        let mut used = Amounts::default();
        for _ in 0..2 {
            assert_eq!(exceeded(&limits, &used, &one), []);
            used.add_all(&one);
        }
        let over = |dimension, limit, used, asked| Exceeded {
            dimension,
            limit,
            used,
            asked,
        };
        assert_eq!(
            exceeded(&limits, &used, &one),
            [over(instances, 2, 2, 1), over(Dimension::Vcpus, 4, 4, 2)]
        );
        // Above a limit that came later, what takes nothing of it is let in.
        let lower = Limits::from([(Dimension::Vcpus, 1)]);
        let network = Amounts::of_new(Kind::Network, Demand::default());
        assert_eq!(exceeded(&lower, &used, &network), []);
        assert_eq!(exceeded(&lower, &used, &one), [over(Dimension::Vcpus, 1, 4, 2)]);
    }
}
