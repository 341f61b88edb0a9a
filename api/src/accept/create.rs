//! A create's document to what the store accepts: parsed (400), validated (422), allowed (403).

use super::policy;
use crate::ctx::Ctx;
use crate::extract::envelope::{self, Envelope};
use crate::problem::Problem;
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::Kind;
use rhyzome_store::accept::{CreateRequest, IdempotencyKey};
use serde_json::Value;

/// What a body asks for, checked by itself: the same body and caller get the same answer whenever they come.
pub fn checked(ctx: &Ctx, kind: Kind, body: Value) -> Result<Envelope, Problem> {
    let envelope = envelope::of_create(kind, body)?;
    let faults = kind.ops().validate(&envelope.spec, None)?;
    if !faults.is_empty() {
        return Err(Problem::validation(faults));
    }
    if !ctx.caller.may(kind.as_str(), "create", None, &envelope.tags) {
        return Err(crate::auth::caller::missing(kind.as_str(), "create"));
    }
    policy::check(&ctx.caller, kind, &envelope.spec, None)?;
    Ok(envelope)
}

/// The request that the store accepts.
pub fn request(
    ctx: &Ctx,
    kind: Kind,
    envelope: Envelope,
    idempotency: Option<IdempotencyKey>,
    deadline_s: Option<i64>,
) -> Result<CreateRequest, Problem> {
    let ops = kind.ops();
    Ok(CreateRequest {
        id: ResourceId::new(),
        job: JobId::new(),
        tenant: ctx.caller.tenant.clone(),
        kind,
        public: policy::is_public(kind, &envelope.spec)?,
        references: ops.references(&envelope.spec)?,
        apart_from: ops.apart_from(&envelope.spec)?,
        leases: ops.lease_requests(&envelope.spec)?,
        static_leases: policy::static_leases(kind, &envelope.spec)?.unwrap_or_default(),
        step_names: ops.step_names(Action::Create, &envelope.spec, None)?,
        name: envelope.name,
        tags: envelope.tags,
        spec: envelope.spec,
        idempotency,
        origin: ctx.origin(deadline_s),
    })
}
