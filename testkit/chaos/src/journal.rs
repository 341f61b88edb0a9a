//! What a run saw: accepted jobs, answers, broken invariants, faults; shared by all that take part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An accepted request.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) job: String,
    pub(crate) what: String,
}

#[derive(Debug, Default)]
struct Seen {
    accepted: Vec<Accepted>,
    answers: BTreeMap<String, u64>,
    broken: BTreeSet<String>,
    done: BTreeMap<String, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Seen>);

impl Journal {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A 202 named this job.
    pub(crate) fn accepted(&self, job: &str, what: &str) {
        self.seen().accepted.push(Accepted {
            job: job.to_owned(),
            what: what.to_owned(),
        });
    }

    /// Something was answered.
    pub(crate) fn answered(&self, what: &str, status: u16) {
        *self.seen().answers.entry(format!("{what} {status}")).or_default() += 1;
    }

    /// An invariant doesn't hold; the number is of job-protocol.md, 0 for what has none.
    pub(crate) fn broken(&self, invariant: u8, what: &str) {
        let line = format!("invariant {invariant}: {what}");
        if self.seen().broken.insert(line.clone()) {
            eprintln!("BROKEN {line}");
        }
    }

    /// A fault was injected from outside, or a scenario got somewhere.
    pub(crate) fn did(&self, what: &str) {
        *self.seen().done.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn all_accepted(&self) -> Vec<Accepted> {
        self.seen().accepted.clone()
    }

    pub(crate) fn all_broken(&self) -> Vec<String> {
        self.seen().broken.iter().cloned().collect()
    }

    pub(crate) fn all_answers(&self) -> BTreeMap<String, u64> {
        self.seen().answers.clone()
    }

    pub(crate) fn all_done(&self) -> BTreeMap<String, u64> {
        self.seen().done.clone()
    }
}
