//! What reconcile asks for: what a host lacks of what is applied is made again, what it holds and shall not is turned off, and later
//! removed. Each is an ordinary job, in line on its resource; what nobody owns gets a row of its own for that, which stands in for it.
//!
//! All is judged again under the resource's lock: what moved since the host was looked at is left alone, though it stands still again.

use super::rows::{NewJob, Pinned, insert_job, lock_resource, read_resource, stand_in};
use crate::accept::Origin;
use crate::changes::{self, Change};
use crate::rows::{JobRow, ResourceRow, StepRow};
use crate::{Store, StoreError};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::change::What;
use rhyzome_model::check::{Amiss, Owner, Wrong};
use rhyzome_model::ids::{JobId, ResourceId, TenantId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::Kind;
use rhyzome_model::step::Step;
use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};

/// The tenant of what nobody owns.
const NOBODYS: &str = "system";

/// What was accepted.
#[derive(Debug)]
pub struct Mended {
    /// The job, where there is something to do now.
    pub job: Option<JobRow>,
    /// All that changed, as it was written for those who watch.
    pub changes: Vec<Change>,
}

impl Store {
    /// Makes again what its host lacks of a resource. Nothing where that isn't so any more, or something is done with it already.
    pub async fn accept_repair(&self, amiss: &Amiss, origin: &Origin) -> Result<Option<Mended>, StoreError> {
        let Wrong::Incomplete { disk_lost } = amiss.wrong else {
            return Ok(None);
        };
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = at_rest(&mut tx, amiss).await? else {
            return leave(tx).await;
        };
        let Some(applied) = before
            .applied
            .as_ref()
            .filter(|_| before.host.as_ref() == Some(&amiss.host))
        else {
            return leave(tx).await;
        };
        let names = before
            .kind
            .ops()
            .step_names(Action::Repair, applied, Some(applied))
            .map_err(|e| StoreError::row("resources", e))?;
        let steps = names.iter().map(|s| StepRow::pending(s)).collect();
        let new = NewJob {
            steps,
            ..on(&before, Action::Repair, origin, now)
        };
        if disk_lost {
            let reason = json!({
                "code": "DISK_LOST",
                "detail": "Its host no longer had its disk. It is made anew from its image; what was written to it is lost.",
                "job": new.id,
            });
            sqlx::query!(
                "UPDATE resources SET reason = $2, updated_at = $3 WHERE id = $1",
                before.id.0,
                reason,
                now
            )
            .execute(&mut *tx)
            .await?;
        }
        let row = begin(&mut tx, amiss, new).await?;
        finish(tx, before.id, Some(row)).await.map(Some)
    }

    /// Does on a host what rids it of something that a resource, which is elsewhere or not made, left there; or turns that off.
    pub async fn accept_clearing(
        &self,
        amiss: &Amiss,
        steps: Vec<Step>,
        origin: &Origin,
    ) -> Result<Option<Mended>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = at_rest(&mut tx, amiss).await? else {
            return leave(tx).await;
        };
        // What lives there has claims too many, and nothing else.
        let lives_there = before.host.as_ref() == Some(&amiss.host);
        let owns = |wrong: &Wrong| match wrong {
            Wrong::Stray(stray) => {
                stray.owner == Owner::Resource && (!lives_there || stray.objects.is_empty())
            }
            Wrong::Incomplete { .. } => false,
        };
        if !owns(&amiss.wrong) || stand_in(&mut tx, before.id).await?.is_some() {
            return leave(tx).await;
        }
        let new = there(amiss, steps, on(&before, Action::Repair, origin, now));
        let row = begin(&mut tx, amiss, new).await?;
        finish(tx, before.id, Some(row)).await.map(Some)
    }

    /// Puts what nobody owns in quarantine: it gets a row that stands in for it, and a guest among it is turned off. Nothing where that
    /// is so already.
    pub async fn accept_quarantine(
        &self,
        amiss: &Amiss,
        until: DateTime<Utc>,
        origin: &Origin,
    ) -> Result<Option<Mended>, StoreError> {
        let Wrong::Stray(stray) = &amiss.wrong else {
            return Ok(None);
        };
        if stray.owner != Owner::Nobody {
            return Ok(None);
        }
        let mut tx = self.pool.begin().await?;
        let stands = Pinned {
            host: amiss.host.clone(),
            steps: amiss.removal(),
        };
        let made = insert_stand_in(&mut tx, amiss, &stands, until).await?;
        let Some((before, now)) = at_rest(&mut tx, amiss).await? else {
            return leave(tx).await;
        };
        match stand_in(&mut tx, before.id).await? {
            Some(is) if is.host == amiss.host => {
                if is != stands {
                    write_stand_in(&mut tx, before.id, &stands).await?;
                }
            }
            Some(_) | None => return leave(tx).await,
        }
        let off = amiss.quarantine();
        let row = if off.is_empty() {
            None
        } else {
            let new = there(amiss, off, on(&before, Action::Stop, origin, now));
            Some(begin(&mut tx, amiss, new).await?)
        };
        if row.is_none() && !made {
            tx.commit().await?;
            return Ok(None);
        }
        finish(tx, before.id, row).await.map(Some)
    }

    /// Deletes what stands in for something on a host, and that with it. Nothing where it is being deleted already.
    pub async fn accept_removal(&self, amiss: &Amiss, origin: &Origin) -> Result<Option<Mended>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some((before, now)) = at_rest(&mut tx, amiss).await? else {
            return leave(tx).await;
        };
        let Some(stands) = stand_in(&mut tx, before.id)
            .await?
            .filter(|s| s.host == amiss.host)
        else {
            return leave(tx).await;
        };
        sqlx::query!(
            "UPDATE resources SET deleting = true, generation = generation + 1, updated_at = $2 WHERE id = $1",
            before.id.0,
            now
        )
        .execute(&mut *tx)
        .await?;
        let new = NewJob {
            generation: before.generation + 1,
            deadline: None,
            ..on(&before, Action::Delete, origin, now)
        };
        let row = begin(&mut tx, amiss, there(amiss, stands.steps, new)).await?;
        finish(tx, before.id, Some(row)).await.map(Some)
    }

    /// What stands in for something that its host no longer holds, or whose host is gone: it goes. What went. What is of a kind of a
    /// later version is left to that.
    pub async fn stand_ins_gone(&self) -> Result<Vec<Change>, StoreError> {
        let kinds: Vec<String> = Kind::ALL.iter().map(ToString::to_string).collect();
        let mut tx = self.pool.begin().await?;
        let gone = sqlx::query!(
            "WITH l AS (
                 SELECT r.id FROM resources r WHERE r.stand_in IS NOT NULL AND r.kind = ANY($1)
                    AND NOT EXISTS (SELECT FROM job_resources o WHERE o.resource_id = r.id)
                    AND NOT EXISTS (SELECT FROM amiss a WHERE a.host = r.stand_in ->> 'host' AND a.resource_id = r.id)
                 ORDER BY r.id FOR UPDATE SKIP LOCKED
             )
             DELETE FROM resources r USING l WHERE r.id = l.id RETURNING r.id, r.tenant, r.kind",
            &kinds
        )
        .fetch_all(&mut *tx)
        .await?;
        let changes = gone
            .into_iter()
            .map(|r| {
                let kind = crate::rows::parse("resources", &r.kind, Kind::parse)?;
                Ok(Change::resource(
                    &TenantId(r.tenant),
                    kind,
                    ResourceId(r.id),
                    What::Deleted,
                ))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let changes = changes::write(&mut tx, changes).await?;
        tx.commit().await?;
        Ok(changes)
    }
}

/// Nothing is asked for. Its row is let go at once: a transaction that is only dropped ends some time later, and until then dispatch passes
/// by what has a locked row.
async fn leave(tx: Transaction<'static, Postgres>) -> Result<Option<Mended>, StoreError> {
    tx.rollback().await?;
    Ok(None)
}

/// The resource, locked, if nothing is done with it, nor was since its host was looked at, and the host is one on which something may be
/// mended.
async fn at_rest(
    tx: &mut Transaction<'_, Postgres>,
    amiss: &Amiss,
) -> Result<Option<(ResourceRow, DateTime<Utc>)>, StoreError> {
    let tenant = sqlx::query_scalar!(
        "SELECT tenant FROM resources WHERE id = $1 AND kind = $2",
        amiss.resource.0,
        amiss.kind.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(tenant) = tenant else { return Ok(None) };
    let Some((before, now)) = lock_resource(tx, &TenantId(tenant), amiss.kind, amiss.resource).await? else {
        return Ok(None);
    };
    let may = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM hosts h JOIN amiss a ON a.host = h.name WHERE h.name = $1 AND a.resource_id = $2 AND NOT h.cordoned)
                  AND NOT EXISTS (SELECT FROM set_backs) AND NOT EXISTS (SELECT FROM abandoned WHERE resource_id = $2)
                  AND NOT EXISTS (SELECT FROM jobs WHERE resource_id = $2 AND ended_at >= $3) AS "may!""#,
        amiss.host.as_str(),
        amiss.resource.0,
        amiss.asked_at
    )
    .fetch_one(&mut **tx)
    .await?;
    let at_rest = may && !before.deleting && before.active_job.is_none();
    Ok(at_rest.then_some((before, now)))
}

/// A job as reconcile makes them: of what is applied, or else of the intent, which it doesn't change.
fn on<'a>(before: &'a ResourceRow, action: Action, origin: &'a Origin, now: DateTime<Utc>) -> NewJob<'a> {
    NewJob {
        id: JobId::new(),
        resource: before,
        action,
        spec: before.applied.as_ref().unwrap_or(&before.spec),
        generation: before.generation,
        state: JobState::Queued,
        steps: Vec::new(),
        deadline: Some(now + TimeDelta::seconds(origin.deadline_s)),
        origin,
        retry_of: None,
        pinned: None,
        now,
    }
}

/// The same, with steps that are done on the host that something is amiss on.
fn there<'a>(amiss: &Amiss, steps: Vec<Step>, mut new: NewJob<'a>) -> NewJob<'a> {
    let pinned = Pinned {
        host: amiss.host.clone(),
        steps,
    };
    new.steps = pinned.pending();
    new.pinned = Some(pinned);
    new
}

/// Inserts the job, and counts the try.
async fn begin(
    tx: &mut Transaction<'_, Postgres>,
    amiss: &Amiss,
    new: NewJob<'_>,
) -> Result<JobRow, StoreError> {
    let now = new.now;
    let row = insert_job(tx, new).await?;
    sqlx::query!(
        "UPDATE amiss SET tries = tries + 1, tried_at = $3 WHERE host = $1 AND resource_id = $2",
        amiss.host.as_str(),
        amiss.resource.0,
        now
    )
    .execute(&mut **tx)
    .await?;
    Ok(row)
}

async fn insert_stand_in(
    tx: &mut Transaction<'_, Postgres>,
    amiss: &Amiss,
    stands: &Pinned,
    until: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let spec = amiss
        .kind
        .ops()
        .stand_in()
        .map_err(|e| StoreError::row("resources", e))?;
    let reason = json!({
        "code": "QUARANTINED",
        "detail": format!(
            "Host {} holds it, and nobody owns it. It is kept, and not run, until {}, and then removed; delete it to remove it now.",
            amiss.host,
            until.format("%Y-%m-%d %H:%M UTC")
        ),
        "job": null,
    });
    let done = sqlx::query!(
        "INSERT INTO resources (id, tenant, kind, name, spec, reason, stand_in) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        amiss.resource.0,
        NOBODYS,
        amiss.kind.as_str(),
        format!("quarantined-{}", amiss.resource),
        spec,
        reason,
        document(stands)?
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn write_stand_in(
    tx: &mut Transaction<'_, Postgres>,
    id: ResourceId,
    stands: &Pinned,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE resources SET stand_in = $2 WHERE id = $1",
        id.0,
        document(stands)?
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn document(stands: &Pinned) -> Result<Value, StoreError> {
    serde_json::to_value(stands).map_err(|e| StoreError::row("resources", e))
}

async fn finish(
    mut tx: Transaction<'static, Postgres>,
    id: ResourceId,
    job: Option<JobRow>,
) -> Result<Mended, StoreError> {
    let resource = read_resource(&mut tx, id).await?;
    let told = changes::accepted(&resource, job.as_ref());
    let changes = changes::write(&mut tx, told).await?;
    tx.commit().await?;
    Ok(Mended { job, changes })
}
