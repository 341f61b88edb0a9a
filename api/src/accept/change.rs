//! Updates and actions: new intent made from the generation that was read, and made anew where somebody was faster.

use super::{image_floor, policy, refusal, reply};
use crate::apart;
use crate::auth::Caller;
use crate::ctx::Ctx;
use crate::extract::envelope::{self, Envelope};
use crate::extract::headers::IfMatch;
use crate::problem::{Code, Problem};
use crate::shapes::resource::etag;
use axum::response::Response;
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Kind, PlanError};
use rhyzome_model::problem::FieldError;
use rhyzome_runtime::fault::{self, Point, Side};
use rhyzome_store::accept::{Accepted, AcceptedNow, IdempotencyKey, Refusal, Reply, StaticLeaseRequest};
use rhyzome_store::change::{ChangeRequest, Work};
use rhyzome_store::resources::Scope;
use rhyzome_store::rows::ResourceRow;
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;

/// How often new intent is made anew because the resource moved: each time another change was accepted.
const TRIES: usize = 32;

/// What is asked of a resource that is there.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A JSON merge patch.
    Patch(Value),
    /// Start, stop and the like.
    Act(Action),
}

impl Ask {
    /// The action of the job that it comes to.
    pub fn action(&self) -> Action {
        match self {
            Self::Patch(_) => Action::Update,
            Self::Act(action) => *action,
        }
    }

    /// The verb of the scope.
    fn verb(&self) -> &'static str {
        self.action().as_str()
    }
}

/// How a change is asked for, beside what.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `Idempotency-Key`, of a POST.
    pub idempotency: Option<IdempotencyKey>,
    /// `If-Match`.
    pub if_match: IfMatch,
    /// `?deadline_seconds=`.
    pub deadline_s: Option<i64>,
    /// `Prefer: wait=`.
    pub wait: Option<Duration>,
}

/// New intent, judged.
#[derive(Debug)]
pub struct Intent {
    /// As it shall be.
    pub envelope: Envelope,
    /// Whether a job has to make it so.
    pub work: Work,
    /// As shown from the acceptance on.
    pub steps: Vec<&'static str>,
    /// Whether anything differs at all.
    pub difference: Difference,
}

/// Whether new intent says anything new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is as it was.
    None,
    /// It isn't.
    Some,
}

/// Accepts a change and answers.
pub async fn accept(
    ctx: &Ctx,
    kind: Kind,
    id: ResourceId,
    ask: &Ask,
    terms: Terms,
) -> Result<Response, Problem> {
    let _turn = ctx
        .app
        .keys
        .lock(&ctx.caller.tenant, terms.idempotency.as_ref())
        .await;
    if let Some(key) = &terms.idempotency
        && let Some(earlier) = ctx.app.store.idempotency_find(&ctx.caller.tenant, key).await?
    {
        let reply = match earlier {
            Ok(reply) => reply,
            Err(refused) => {
                own(ctx, kind, id, ask.verb()).await?;
                return Err(refusal::problem(refused, kind, &format!("{kind} {id}")));
            }
        };
        // Whoever asks: by what is shown, since it may have changed since, or be gone.
        allowed(&ctx.caller, &reply.accepted.resource, ask.verb())?;
        return reply::accepted(ctx, reply, terms.wait).await;
    }
    for _ in 0..TRIES {
        let before = own(ctx, kind, id, ask.verb()).await?;
        terms.if_match.check(&etag(&before))?;
        refuse_by_state(&before)?;
        let intent = intent(ctx, &before, ask).await?;
        if intent.difference == Difference::None && intent.work == Work::None {
            let reply = Reply {
                accepted: Accepted {
                    resource: before,
                    job: None,
                    addresses: None,
                },
                now: AcceptedNow::Earlier,
            };
            return reply::accepted(ctx, reply, terms.wait).await;
        }
        let request = request(ctx, &before, ask, intent, &terms)?;
        fault::point(Point::AcceptCommit, Side::Before);
        let changed = ctx.app.store.accept_change(&request).await?;
        fault::point(Point::AcceptCommit, Side::After);
        match changed {
            Ok(reply) => {
                if reply.now == AcceptedNow::Now {
                    if kind == Kind::Image {
                        ctx.app.image_floors.forget();
                    }
                    ctx.app
                        .announcer
                        .accepted(&reply.accepted.resource, reply.accepted.job.as_ref());
                }
                return reply::accepted(ctx, reply, terms.wait).await;
            }
            Err(Refusal::Moved) => {}
            Err(refused) => return Err(refusal::problem(refused, kind, &format!("{kind} {id}"))),
        }
    }
    Err(refusal::problem(Refusal::Moved, kind, &format!("{kind} {id}")))
}

/// A resource of the caller's own tenant on which the verb is allowed.
pub async fn own(ctx: &Ctx, kind: Kind, id: ResourceId, verb: &str) -> Result<ResourceRow, Problem> {
    let scope = Scope::Tenant(ctx.caller.tenant.clone());
    let found = ctx.app.store.resource_get(&scope, kind, id).await?;
    let row = found.ok_or_else(|| Problem::not_found(kind.as_str(), &id.to_string()))?;
    allowed(&ctx.caller, &row, verb)?;
    if row.tenant != ctx.caller.tenant {
        let detail = format!("The {kind} {id} is public; only its owner may change it.");
        return Err(Problem::new(Code::ScopeMissing, detail));
    }
    Ok(row)
}

/// Refuses a verb that isn't allowed on this resource.
pub fn allowed(caller: &Caller, row: &ResourceRow, verb: &str) -> Result<(), Problem> {
    caller.require_on(row.kind.as_str(), verb, &row.id.to_string(), &row.tags)
}

/// Refuses what no new intent can change; the store judges again under its lock.
pub fn refuse_by_state(row: &ResourceRow) -> Result<(), Problem> {
    let refused = match row {
        row if row.deleting => None,
        row if row.in_quarantine => Some(Refusal::Quarantined),
        row if row.applied.is_none() && row.active_job.is_none() => Some(Refusal::ResourceFailed),
        _ => None,
    };
    match refused {
        Some(refusal) => Err(refusal::problem(
            refusal,
            row.kind,
            &format!("{} {}", row.kind, row.id),
        )),
        None => Ok(()),
    }
}

/// The intent that a request makes of a resource.
pub async fn intent(ctx: &Ctx, before: &ResourceRow, ask: &Ask) -> Result<Intent, Problem> {
    let ops = before.kind.ops();
    // As it is shown: what was read can be sent again.
    let gone = apart::gone(&ctx.app.store, std::iter::once(&before.spec)).await?;
    let before = apart::row_without(before, &gone);
    let before = before.as_ref();
    let current = Envelope {
        name: before.name.clone(),
        tags: before.tags.clone(),
        spec: before.spec.clone(),
    };
    let (mut envelope, asks_work) = match ask {
        Ask::Patch(patch) => (
            envelope::of_patch(before.kind, &current, patch)?,
            envelope::touches_spec(patch),
        ),
        Ask::Act(action) => (
            Envelope {
                spec: ops.apply_action(&before.spec, *action)?,
                ..current.clone()
            },
            true,
        ),
    };
    // As it was shown before that went, too.
    if let Cow::Owned(spec) = apart::without(&envelope.spec, &gone) {
        envelope.spec = spec;
    }
    let unresolved = resolve(ctx, before, &mut envelope).await?;
    let mut faults = ops.validate(&envelope.spec, Some(&before.spec))?;
    if !faults.is_empty() {
        // What may not change at all is no matter of what there is.
        let judged: Vec<String> = faults.iter().map(|fault| fault.pointer.clone()).collect();
        let within = |pointer: &str, at: &str| {
            pointer
                .strip_prefix(at)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        faults.extend(
            unresolved
                .into_iter()
                .filter(|fault| !judged.iter().any(|at| within(&fault.pointer, at))),
        );
        return Err(Problem::validation(faults));
    }
    if let Some(first) = unresolved.first() {
        return Err(Problem::new(Code::ReferenceNotFound, first.detail.clone()).with_errors(unresolved));
    }
    // Who may change what has this tag must not be able to give the tag away or take another's.
    if !ctx.caller.may(
        before.kind.as_str(),
        ask.verb(),
        Some(&before.id.to_string()),
        &envelope.tags,
    ) {
        return Err(crate::auth::caller::missing(before.kind.as_str(), ask.verb()));
    }
    policy::check(&ctx.caller, before.kind, &envelope.spec, Some(&before.spec))?;
    if envelope.spec != before.spec {
        image_floor::check(ctx, before.kind, &envelope.spec).await?;
    }
    let lags = before.observed_generation < before.generation && before.active_job.is_none();
    let is_action = matches!(ask, Ask::Act(_));
    let work = if is_action || envelope.spec != before.spec || (asks_work && lags) {
        Work::Job
    } else {
        Work::None
    };
    let difference = if envelope == current {
        Difference::None
    } else {
        Difference::Some
    };
    let steps = ops.step_names(
        ask.action(),
        &envelope.spec,
        before.planned_against(ask.action())?.as_ref(),
    )?;
    Ok(Intent {
        envelope,
        work,
        steps,
        difference,
    })
}

/// The static leases that a new spec asks for, where they change.
pub fn static_leases(
    before: &ResourceRow,
    spec: &Value,
) -> Result<Option<Vec<StaticLeaseRequest>>, PlanError> {
    if spec.get("leases") == before.spec.get("leases") {
        return Ok(None);
    }
    policy::static_leases(before.kind, spec)
}

fn request(
    ctx: &Ctx,
    before: &ResourceRow,
    ask: &Ask,
    intent: Intent,
    terms: &Terms,
) -> Result<ChangeRequest, Problem> {
    let static_leases = static_leases(before, &intent.envelope.spec)?;
    Ok(ChangeRequest {
        job: JobId::new(),
        tenant: before.tenant.clone(),
        kind: before.kind,
        id: before.id,
        from_generation: before.generation,
        action: ask.action(),
        public: policy::is_public(before.kind, &intent.envelope.spec)?,
        name: intent.envelope.name,
        tags: intent.envelope.tags,
        spec: intent.envelope.spec,
        static_leases,
        work: intent.work,
        step_names: intent.steps,
        idempotency: terms.idempotency.clone(),
        origin: ctx.origin(terms.deadline_s),
    })
}

/// Puts ids where the new spec names resources, as the stored one has them; answers what isn't there.
async fn resolve(
    ctx: &Ctx,
    before: &ResourceRow,
    envelope: &mut Envelope,
) -> Result<Vec<FieldError>, Problem> {
    let ops = before.kind.ops();
    let mut unresolved = Vec::new();
    let references = ops.references(&envelope.spec)?;
    for reference in references.into_iter().chain(ops.apart_from(&envelope.spec)?) {
        let stored = before.spec.pointer(&reference.pointer).and_then(Value::as_str);
        if stored == Some(reference.target.as_str()) {
            continue;
        }
        let tenant = &ctx.caller.tenant;
        let found = ctx
            .app
            .store
            .resource_find(tenant, reference.kind, &reference.target)
            .await?;
        let pointer = format!("/spec{}", reference.pointer);
        let Some(found) = found else {
            let detail = format!("There is no {} {:?}.", reference.kind, reference.target);
            unresolved.push(FieldError::new(pointer, Code::ReferenceNotFound.as_str(), detail));
            continue;
        };
        if let Some(slot) = envelope.spec.pointer_mut(&reference.pointer) {
            *slot = Value::String(found.id.to_string());
        }
    }
    Ok(unresolved)
}
