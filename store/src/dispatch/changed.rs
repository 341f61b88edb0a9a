//! What a batch changed for those who watch.

use super::{DispatchTx, OrderRow};
use crate::StoreError;
use crate::changes::Change;
use crate::rows::Waiting;
use chrono::{DateTime, Utc};
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use std::collections::BTreeMap;
use uuid::Uuid;

impl DispatchTx {
    /// Jobs that wait for something else than before. A further look at a job that waits as it did changes nothing but its `until`.
    pub(super) fn waits_changed(
        &self,
        waits: &[(JobId, JobState, Waiting, Option<DateTime<Utc>>)],
    ) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for (id, state, waiting, _) in waits {
            let job = self.job(*id)?;
            let as_before = |before: &Waiting| {
                Waiting {
                    until: before.until,
                    ..waiting.clone()
                } == *before
            };
            if !job.waiting.as_ref().is_some_and(as_before) {
                changes.push(Change::job(&job.tenant, *id, *state, What::Updated));
            }
        }
        Ok(changes)
    }

    /// Jobs whose orders go out, resources that came to a host, and networks that came to live on one.
    pub(super) fn orders_changed(
        &self,
        orders: &[OrderRow],
        settled: &BTreeMap<Uuid, Vec<JobId>>,
    ) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::with_capacity(orders.len() * 2);
        for order in orders {
            let job = self.job(order.job)?;
            let state = match job.state {
                JobState::Undoing => JobState::Undoing,
                JobState::Blocked
                | JobState::Queued
                | JobState::Running
                | JobState::Succeeded
                | JobState::Failed
                | JobState::Cancelled => JobState::Running,
            };
            changes.push(Change::job(&order.tenant, order.job, state, What::Updated));
            if order.kind != Kind::Network && job.resource_host.as_ref() != Some(&order.host) {
                changes.push(Change::resource(
                    &order.tenant,
                    order.kind,
                    order.resource,
                    What::Updated,
                ));
            }
        }
        let written: BTreeMap<JobId, &OrderRow> = orders.iter().map(|o| (o.job, o)).collect();
        for (network, by) in settled {
            if let Some(order) = by.iter().find_map(|job| written.get(job)) {
                changes.push(Change::resource(
                    &order.tenant,
                    Kind::Network,
                    ResourceId(*network),
                    What::Updated,
                ));
            }
        }
        Ok(changes)
    }
}
