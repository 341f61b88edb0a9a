//! What is seen of guests, and told.

use super::Guests;
use crate::driver::{GuestSeen, SeenPower};
use crate::objects::network::{Networking, USER_NETWORK};
use crate::objects::process::ProcessId;
use crate::objects::run_state::RunState;
use chrono::{DateTime, Utc};
use rhyzome_model::ids::ResourceId;
use std::collections::BTreeMap;

impl Guests {
    /// What is seen of a guest whose state was read no sooner than `at`.
    pub(crate) fn look(&self, id: ResourceId, run: &RunState, at: DateTime<Utc>) -> GuestSeen {
        let figures = run.alive().and_then(ProcessId::figures);
        let metrics = figures.map(|f| {
            BTreeMap::from([
                ("cpu_seconds".to_owned(), f.cpu_seconds),
                ("memory_rss_mib".to_owned(), f.memory_rss_mib),
                ("uptime_seconds".to_owned(), f.uptime_seconds),
            ])
        });
        let power = run.power();
        let live = self.live(id).filter(|l| Some(&l.process) == run.process.as_ref());
        let detail = match (power, self.networking) {
            (SeenPower::On, networking) => match (live.and_then(|l| l.paused()), networking) {
                (Some(why), _) => why.to_owned(),
                (None, Networking::User) => USER_NETWORK.to_owned(),
                (None, Networking::Bridge) => run.detail(),
            },
            (SeenPower::Off | SeenPower::Crashed | SeenPower::Unknown, _) => run.detail(),
        };
        GuestSeen {
            host: self.host.clone(),
            instance: id,
            power,
            at,
            detail,
            metrics: metrics.unwrap_or_default(),
        }
    }

    pub(crate) fn tell(&self, id: ResourceId, run: &RunState) {
        // Nobody listening is no error: what is asked for later is looked up.
        let listeners = self.seen.send(self.look(id, run, Utc::now())).unwrap_or(0);
        tracing::debug!(instance = %id, power = run.power().as_str(), listeners, "a guest's power changed");
    }
}
