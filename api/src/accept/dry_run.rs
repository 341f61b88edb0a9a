//! `?dry_run=true`: all checks done, the would-be resource, its steps and the placement's verdict; nothing written.

use super::change::{self, Ask};
use super::placement::{self, PlacementDoc};
use super::{create, refusal, reply};
use crate::ctx::Ctx;
use crate::extract::envelope::Envelope;
use crate::extract::headers::IfMatch;
use crate::problem::Problem;
use crate::shapes::resource::{self, Beside, ResourceDoc, etag};
use axum::response::Response;
use http::StatusCode;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Kind, Venue};
use rhyzome_store::accept;
use rhyzome_store::change::Work;
use rhyzome_store::resources::Scope;
use rhyzome_store::rows::ResourceRow;
use serde::Serialize;

/// The answer to a dry run.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DryRunDoc<'a> {
    /// As it would be.
    resource: ResourceDoc<'a>,
    /// Names of the steps.
    steps: Vec<&'static str>,
    /// Whether a host would take it: of a change, the one that it is on. Null where none is needed, or it is on none yet.
    placement: Option<PlacementDoc>,
    /// Null until there are prices.
    #[schema(value_type = Option<f64>)]
    price: Option<f64>,
}

/// Of a create.
pub async fn of_create(
    ctx: &Ctx,
    kind: Kind,
    envelope: Envelope,
    deadline_s: Option<i64>,
) -> Result<Response, Problem> {
    let request = create::request(ctx, kind, envelope, None, deadline_s)?;
    let (steps, what) = (request.step_names.clone(), format!("{kind} {}", request.name));
    let accepted = ctx
        .app
        .store
        .check_create(request)
        .await?
        .map_err(|refused| refusal::problem(refused, kind, &what))?;
    let mut row = accepted.resource;
    row.active_job = None;
    let placement = match kind.ops().venue(Action::Create) {
        Venue::Placed => Some(placement::verdict(ctx, &row).await?),
        Venue::WhereItIs => None,
    };
    let beside = Beside {
        addresses: accepted.addresses.unwrap_or_default(),
        would: Some(Action::Create),
        ..Beside::default()
    };
    answer(ctx, &row, &beside, steps, placement)
}

/// Of a patch or an action.
pub async fn of_change(
    ctx: &Ctx,
    kind: Kind,
    id: ResourceId,
    ask: &Ask,
    if_match: &IfMatch,
) -> Result<Response, Problem> {
    let mut row = change::own(ctx, kind, id, ask.action().as_str()).await?;
    if_match.check(&etag(&row))?;
    let refused = |r| Err(refusal::problem(r, kind, &format!("{kind} {id}")));
    if row.deleting {
        let job = row.active_job.map(|job| job.id);
        return refused(accept::Refusal::Deleting { job });
    }
    change::refuse_by_state(&row)?;
    let intent = change::intent(ctx, &row, ask).await?;
    if intent.envelope.name != row.name {
        let scope = Scope::Tenant(ctx.caller.tenant.clone());
        let found = ctx
            .app
            .store
            .resource_find(&ctx.caller.tenant, kind, &intent.envelope.name)
            .await?;
        if let Some(holder) =
            found.filter(|f| f.name == intent.envelope.name && Scope::Tenant(f.tenant.clone()) == scope)
        {
            return refused(accept::Refusal::NameTaken { holder: holder.id });
        }
    }
    let spec = &intent.envelope.spec;
    let leases = change::static_leases(&row, spec)?;
    if let Err(refusal) = ctx.app.store.check_change(&row, spec, leases.as_deref()).await? {
        return refused(refusal);
    }
    let before = row.clone();
    row.name = intent.envelope.name;
    row.tags = intent.envelope.tags;
    row.spec = intent.envelope.spec;
    row.generation += 1;
    let beside = Beside {
        would: (intent.work == Work::Job).then(|| ask.action()),
        ..reply::beside(ctx, &row).await?
    };
    // A start takes what is reserved for it anyway.
    let placement = match (beside.would, kind.ops().venue(Action::Create)) {
        (Some(Action::Update), Venue::Placed) => placement::where_it_is(ctx, &before, &row).await?,
        (Some(_) | None, Venue::Placed | Venue::WhereItIs) => None,
    };
    answer(ctx, &row, &beside, intent.steps, placement)
}

/// Of a delete.
pub async fn of_delete(
    ctx: &Ctx,
    kind: Kind,
    id: ResourceId,
    if_match: &IfMatch,
) -> Result<Response, Problem> {
    let mut row = change::own(ctx, kind, id, Action::Delete.as_str()).await?;
    if_match.check(&etag(&row))?;
    let dependants = ctx.app.store.dependants_of(id).await?;
    if !dependants.is_empty() && !row.deleting {
        return Err(refusal::problem(
            accept::Refusal::HasDependants { dependants },
            kind,
            &format!("{kind} {}", row.name),
        ));
    }
    row.deleting = true;
    let steps = kind
        .ops()
        .step_names(Action::Delete, &row.spec, row.applied.as_ref())?;
    let beside = reply::beside(ctx, &row).await?;
    answer(ctx, &row, &beside, steps, None)
}

fn answer(
    ctx: &Ctx,
    row: &ResourceRow,
    beside: &Beside,
    steps: Vec<&'static str>,
    placement: Option<PlacementDoc>,
) -> Result<Response, Problem> {
    let resource = resource::document(row, beside, ctx.reader());
    reply::json(
        StatusCode::OK,
        &DryRunDoc {
            resource,
            steps,
            placement,
            price: None,
        },
    )
}
