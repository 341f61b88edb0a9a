//! Orders without an outcome, and whether they are lost: what was seen of each in the stream, over several looks. Pure.
//!
//! One look proves nothing: an order is in no stream, too, when its outcome is just being reported. It is lost when it was missing
//! once, every event of that time has been settled since, and it is missing still.

use rhyzome_model::ids::JobId;
use std::collections::HashMap;

/// An order that was missing from the stream when last looked.
#[derive(Clone, Copy, Debug)]
struct Missing {
    fence: i64,
    /// The place of the last event then.
    position: u64,
    /// The round of looking through all quiet orders in which it was last seen.
    round: u64,
}

/// An order that was in the stream and behind its consumer when last looked.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    /// Its place in the stream.
    sequence: u64,
    /// The round in which it was last seen.
    round: u64,
}

/// Whether an order is to be published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is in the stream, or it can't be told yet that it isn't.
    Perhaps,
    /// It is nowhere, or nobody will get it.
    Lost,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lookout {
    missing: HashMap<JobId, Missing>,
    /// Orders that nobody will get, and of which no advisory had come.
    given_up: HashMap<JobId, GivenUp>,
    round: u64,
}

impl Lookout {
    /// It is in the stream.
    pub fn live(&mut self, job: JobId) {
        self.missing.remove(&job);
        self.given_up.remove(&job);
    }

    /// It is in the stream, and nobody will get it. The server's advisory says that its workers died of it; where none has come in all
    /// of a sweep, nothing is proved, and it is as good as lost.
    pub fn exhausted(&mut self, job: JobId, sequence: u64) -> Found {
        self.missing.remove(&job);
        match self.given_up.remove(&job) {
            Some(before) if before.sequence == sequence => Found::Lost,
            Some(_) | None => {
                let round = self.round;
                self.given_up.insert(job, GivenUp { sequence, round });
                Found::Perhaps
            }
        }
    }

    /// Of an order that is not in the stream, and was not when it was looked for before: the place of the last event then. Are all up to
    /// there settled, it is lost.
    pub fn missed_since(&self, job: JobId, fence: i64) -> Option<u64> {
        self.missing
            .get(&job)
            .filter(|m| m.fence == fence)
            .map(|m| m.position)
    }

    /// It is not in the stream, since when the last event had this place.
    pub fn absent(&mut self, job: JobId, fence: i64, position: u64) {
        self.given_up.remove(&job);
        let missing = Missing {
            fence,
            position,
            round: self.round,
        };
        self.missing.insert(job, missing);
    }

    /// It is lost, and is published again.
    pub fn lost(&mut self, job: JobId) {
        self.missing.remove(&job);
        self.given_up.remove(&job);
    }

    /// All quiet orders were looked at: those that weren't among them are forgotten.
    pub fn round_ends(&mut self) {
        let round = self.round;
        self.missing.retain(|_, m| m.round == round);
        self.given_up.retain(|_, g| g.round == round);
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_is_what_was_missing_in_two_looks_of_the_same_order() {
        let (mut lookout, job) = (Lookout::default(), JobId::new());
        assert_eq!(lookout.missed_since(job, 1), None);
        lookout.absent(job, 1, 7);
        assert_eq!(lookout.missed_since(job, 1), Some(7));
        assert_eq!(lookout.missed_since(job, 2), None, "another order");
        lookout.live(job);
        assert_eq!(lookout.missed_since(job, 1), None, "it was there in between");
        lookout.absent(job, 1, 8);
        lookout.round_ends();
        lookout.round_ends();
        assert_eq!(
            lookout.missed_since(job, 1),
            None,
            "nobody looked for it any more"
        );
    }

    #[test]
    fn what_nobody_will_get_is_lost_at_the_second_look() {
        let (mut lookout, job) = (Lookout::default(), JobId::new());
        assert_eq!(lookout.exhausted(job, 3), Found::Perhaps);
        assert_eq!(lookout.exhausted(job, 4), Found::Perhaps, "another message");
        assert_eq!(lookout.exhausted(job, 4), Found::Lost);
    }
}
