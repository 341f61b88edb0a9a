//! `?dry_run=true`: all checks done, the would-be resource, its steps and the placement's verdict; nothing written.

use super::change::{self, Ask};
use super::{create, refusal, reply};
use crate::ctx::Ctx;
use crate::extract::envelope::Envelope;
use crate::extract::headers::IfMatch;
use crate::problem::Problem;
use crate::shapes::resource::{self, Beside, ResourceDoc, etag};
use axum::response::Response;
use http::StatusCode;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Demand, Kind, Resolved, ResolvedRef, Venue, kept_gib};
use rhyzome_model::place::{
    Cluster, Cordon, FitsWith, HostView, ImageNeed, Reach, Reason, Refusal, Request, Verdict,
};
use rhyzome_model::step::ImageFacts;
use rhyzome_store::accept;
use rhyzome_store::hosts::{ClusterView, HostRow};
use rhyzome_store::resources::Scope;
use rhyzome_store::rows::ResourceRow;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// The answer to a dry run.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DryRunDoc<'a> {
    /// As it would be.
    resource: ResourceDoc<'a>,
    /// Names of the steps.
    steps: Vec<&'static str>,
    /// Whether a host would take it; null where none is needed.
    placement: Option<PlacementDoc>,
    /// Null until there are prices.
    #[schema(value_type = Option<f64>)]
    price: Option<f64>,
}

/// A placement's verdict.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PlacementDoc {
    /// Whether a host takes it now.
    fits: bool,
    /// How many there are, and why which can't.
    hosts: HostsDoc,
    /// The smallest change that would fit.
    fits_with: Option<FitsWith>,
}

/// Hosts, counted once each under the first cause.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct HostsDoc {
    /// All.
    total: u32,
    /// By cause.
    excluded: BTreeMap<Reason, u32>,
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
        Venue::Placed => Some(placement(ctx, &row).await?),
        Venue::WhereItIs => None,
    };
    let beside = Beside {
        addresses: accepted.addresses.unwrap_or_default(),
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
    let mut row = change::own(
        ctx,
        kind,
        id,
        match ask {
            Ask::Patch(_) => Action::Update.as_str(),
            Ask::Act(action) => action.as_str(),
        },
    )
    .await?;
    if_match.check(&etag(&row))?;
    let refused = |r| Err(refusal::problem(r, kind, &format!("{kind} {id}")));
    if row.deleting {
        let job = row
            .active_job
            .map_or_else(rhyzome_model::ids::JobId::default, |job| job.id);
        return refused(accept::Refusal::Deleting { job });
    }
    if row.applied.is_none() && row.active_job.is_none() {
        return refused(accept::Refusal::ResourceFailed);
    }
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
    row.name = intent.envelope.name;
    row.tags = intent.envelope.tags;
    row.spec = intent.envelope.spec;
    row.generation += 1;
    let beside = reply::beside(ctx, &row).await?;
    answer(ctx, &row, &beside, intent.steps, None)
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
        let dependants = dependants.into_iter().map(|d| (d.kind, d.id, d.name)).collect();
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

/// Where the resource would be placed now.
async fn placement(ctx: &Ctx, row: &ResourceRow) -> Result<PlacementDoc, Problem> {
    let view = ctx.app.store.cluster_view().await?;
    let request = placement_request(ctx, row).await?;
    let homes: HashMap<ResourceId, HostName> = view.homes.iter().map(|(n, h)| (*n, h.clone())).collect();
    let total = u32::try_from(view.hosts.len()).unwrap_or(u32::MAX);
    let cluster = Cluster::new(hosts(view), &homes, 0);
    Ok(match cluster.judge(&request) {
        Verdict::Placed(_) => PlacementDoc {
            fits: true,
            hosts: HostsDoc {
                total,
                excluded: BTreeMap::new(),
            },
            fits_with: None,
        },
        Verdict::NoRoom(Refusal {
            total,
            excluded,
            fits_with,
        }) => PlacementDoc {
            fits: false,
            hosts: HostsDoc { total, excluded },
            fits_with,
        },
    })
}

fn hosts(view: ClusterView) -> Vec<HostView> {
    let ClusterView {
        hosts, mut images, ..
    } = view;
    hosts
        .into_iter()
        .map(|host| host_view(&mut images, host))
        .collect()
}

fn host_view(
    images: &mut BTreeMap<HostName, std::collections::BTreeSet<ResourceId>>,
    host: HostRow,
) -> HostView {
    HostView {
        capacity: host.offered,
        free: Demand {
            vcpus: host.offered.vcpus - host.used.vcpus,
            memory_mib: host.offered.memory_mib - host.used.memory_mib,
            disk_gib: host.offered.disk_gib - host.used.disk_gib,
        },
        labels: host.labels,
        reach: if host.up {
            Reach::Reachable
        } else {
            Reach::Unreachable
        },
        cordon: if host.cordoned {
            Cordon::Cordoned
        } else {
            Cordon::Open
        },
        images: images.remove(&host.name).unwrap_or_default(),
        name: host.name,
    }
}

async fn placement_request(ctx: &Ctx, row: &ResourceRow) -> Result<Request, Problem> {
    let ops = row.kind.ops();
    let ids: Vec<ResourceId> = ops
        .references(&row.spec)?
        .iter()
        .filter_map(|r| r.target.parse().ok())
        .collect();
    let found = ctx.app.store.references_of(&ids).await?;
    let facts = |row: &ResourceRow| row.facts.as_ref().and_then(|f| ImageFacts::deserialize(f).ok());
    let of_kind = |kind| found.values().filter(move |r: &&ResourceRow| r.kind == kind);
    let image = of_kind(Kind::Image).next().map(|image| ImageNeed {
        image: image.id,
        disk_gib: facts(image).as_ref().map_or(1, kept_gib),
    });
    let mut apart_from = Vec::new();
    for other in ops.apart_from(&row.spec)? {
        let other = ctx
            .app
            .store
            .resource_find(&row.tenant, other.kind, &other.target)
            .await?;
        apart_from.extend(other.and_then(|o| o.host));
    }
    let resolved = Resolved {
        id: row.id,
        tenant: row.tenant.clone(),
        name: row.name.clone(),
        generation: row.generation,
        spec: row.spec.clone(),
        applied: None,
        leases: Vec::new(),
        references: found
            .iter()
            .map(|(id, r)| {
                let known = ResolvedRef {
                    kind: r.kind,
                    tenant: r.tenant.clone(),
                    generation: r.generation,
                    spec: r.spec.clone(),
                    image: facts(r),
                };
                (*id, known)
            })
            .collect(),
        host: None,
        stop_timeout_s: 0,
    };
    // An image that is still being fetched has no size yet: then the spec alone counts.
    let demand = match ops.demand_resolved(&resolved) {
        Ok(demand) => demand,
        Err(_) => ops.demand(&row.spec)?,
    };
    Ok(Request {
        demand,
        host_labels: ops.host_labels(&row.spec)?,
        networks: of_kind(Kind::Network).map(|n| n.id).collect(),
        image,
        apart_from,
        ..Request::default()
    })
}
