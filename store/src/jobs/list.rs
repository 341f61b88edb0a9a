//! Pages of jobs.
//!
//! | asked for | found by | order |
//! | --- | --- | --- |
//! | of a target | `jobs_resource` | acceptance |
//! | of a tenant, with or without a state | `jobs_list`: a range for each state, merged | acceptance |
//! | of all tenants | the primary key | id |
//! | … failed or cancelled | `jobs_unsuccessful` | id |
//! | … undoing | `jobs_undoing` | id |
//! | … queued or running | `job_resources_job`: what stands in a line is what is open (the check `job_line`) | id |
//! | … succeeded | the primary key | id |
//!
//! Ids are UUIDv7, made when a job is accepted, so that both orders are the same but for what clocks differ. Where a range holds more than
//! is asked for, at most [`LOOK`] rows of it are looked at for a page, which may be short then, and says where to go on.

use super::JobFilter;
use crate::paging::{After, Cut, LOOK, Listed, Page};
use crate::resources::Scope;
use crate::rows::JobRow;
use crate::{Store, StoreError};
use chrono::{DateTime, Utc};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::JobState;
use uuid::Uuid;

/// A job as it is found.
struct Found {
    id: Uuid,
    created_at: DateTime<Utc>,
    tenant: String,
    state: String,
}

impl Store {
    /// A page of jobs, oldest first, without those that only a later version can read.
    pub async fn job_list(
        &self,
        scope: &Scope,
        filter: &JobFilter,
        page: &Page,
    ) -> Result<Listed<JobRow>, StoreError> {
        let tenant = match scope {
            Scope::Tenant(tenant) | Scope::Operator(Some(tenant)) => Some(tenant.as_str()),
            Scope::Operator(None) => None,
        };
        let states: Vec<&str> = JobState::ALL
            .iter()
            .filter(|stored| filter.state.is_none_or(|s| stored.shown() == s))
            .map(|stored| stored.as_str())
            .collect();
        let after = page.begin();
        let (found, looked_for) = match (filter.target, tenant, filter.state) {
            (Some(target), _, _) => {
                let look = page.limit.max(LOOK);
                (self.jobs_of_target(target, after, look).await?, look)
            }
            (None, Some(tenant), _) => {
                let found = self.jobs_of_tenant(tenant, &states, after, page.limit).await?;
                (found, page.limit)
            }
            (None, None, None) => (self.jobs_of_all(after, page.limit).await?, page.limit),
            (None, None, Some(state)) => self.jobs_of_all_in(state, after, page.limit).await?,
        };
        let found: Vec<(After, bool)> = found
            .into_iter()
            .map(|f| {
                let wanted = scope.has(&f.tenant) && states.contains(&f.state.as_str());
                ((f.created_at, f.id), wanted)
            })
            .collect();
        let cut = Cut::of(page, &found, Some(looked_for));
        let ids: Vec<JobId> = cut.ids().iter().copied().map(JobId).collect();
        let mut rows = self.jobs_readable(&ids).await?;
        // What has left the state meanwhile is left out.
        rows.retain(|row| filter.state.is_none_or(|s| row.state.shown() == s));
        Ok(cut.list(rows, |row| row.id.0))
    }

    async fn jobs_of_target(
        &self,
        target: ResourceId,
        after: After,
        limit: i64,
    ) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, tenant, state FROM jobs WHERE resource_id = $1 AND (created_at, id) > ($2, $3)
             ORDER BY created_at, id LIMIT $4",
            target.0,
            after.0,
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn jobs_of_tenant(
        &self,
        tenant: &str,
        states: &[&str],
        after: After,
        limit: i64,
    ) -> Result<Vec<Found>, StoreError> {
        let states: Vec<String> = states.iter().map(|s| (*s).to_owned()).collect();
        let found = sqlx::query_as!(
            Found,
            r#"SELECT f.id AS "id!", f.created_at AS "created_at!", f.tenant AS "tenant!", f.state AS "state!"
               FROM unnest($2::text[]) AS s(state) CROSS JOIN LATERAL (
                   SELECT j.id, j.created_at, j.tenant, j.state FROM jobs j
                   WHERE j.tenant = $1 AND j.state = s.state AND (j.created_at, j.id) > ($3, $4)
                   ORDER BY j.created_at, j.id LIMIT $5
               ) f ORDER BY f.created_at, f.id LIMIT $5"#,
            tenant,
            &states,
            after.0,
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn jobs_of_all(&self, after: After, limit: i64) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, tenant, state FROM jobs WHERE id > $1 ORDER BY id LIMIT $2",
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    /// Jobs of all tenants among which are those in a state, with how many a whole page has.
    async fn jobs_of_all_in(
        &self,
        state: JobState,
        after: After,
        limit: i64,
    ) -> Result<(Vec<Found>, i64), StoreError> {
        let look = limit.max(LOOK);
        Ok(match state {
            JobState::Failed | JobState::Cancelled => {
                (self.jobs_unsuccessful(state, after, limit).await?, limit)
            }
            JobState::Undoing => (self.jobs_undoing(after, limit).await?, limit),
            JobState::Blocked | JobState::Queued | JobState::Running => {
                (self.jobs_open(after, look).await?, look)
            }
            JobState::Succeeded => (self.jobs_of_all(after, look).await?, look),
        })
    }

    async fn jobs_unsuccessful(
        &self,
        state: JobState,
        after: After,
        limit: i64,
    ) -> Result<Vec<Found>, StoreError> {
        // In the order of that index, which the primary key can't give. Behind the last in this state come those in the next.
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, tenant, state FROM jobs
             WHERE state IN ('failed', 'cancelled') AND (state, id) > ($1, $2) ORDER BY state, id LIMIT $3",
            state.as_str(),
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let in_state = found.into_iter().take_while(|f| f.state == state.as_str());
        Ok(in_state.collect())
    }

    async fn jobs_undoing(&self, after: After, limit: i64) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT id, created_at, tenant, state FROM jobs WHERE state = 'undoing' AND id > $1 ORDER BY id LIMIT $2",
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    /// Open jobs: each stands in a line.
    async fn jobs_open(&self, after: After, limit: i64) -> Result<Vec<Found>, StoreError> {
        let found = sqlx::query_as!(
            Found,
            "SELECT j.id, j.created_at, j.tenant, j.state
             FROM (SELECT job_id FROM job_resources WHERE job_id > $1 ORDER BY job_id LIMIT $2) o
             CROSS JOIN LATERAL (SELECT id, created_at, tenant, state FROM jobs WHERE id = o.job_id OFFSET 0) j
             ORDER BY j.id",
            after.1,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }
}
