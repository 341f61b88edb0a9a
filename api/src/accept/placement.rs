//! Where a resource would be placed now, and what each host has to say to it: for dry runs, and for operators who read a job that waits.

use crate::ctx::Ctx;
use crate::problem::Problem;
use crate::shapes::Reader;
use chrono::Utc;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::{Demand, Kind, Resolved, ResolvedRef, kept_gib};
use rhyzome_model::place::{
    Cluster, Cordon, FitsWith, HostVerdict, HostView, ImageNeed, Reach, Reason, Refusal, Request, Verdict,
};
use rhyzome_model::step::ImageFacts;
use rhyzome_store::hosts::{ClusterView, HostRow};
use rhyzome_store::rows::{JobRow, ResourceRow};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// A placement's verdict.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PlacementDoc {
    /// Whether a host takes it now.
    fits: bool,
    /// How many there are, and why which can't.
    hosts: HostsDoc,
    /// The smallest change that would fit.
    fits_with: Option<FitsWith>,
    /// Host by host; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_host: Option<Vec<HostVerdict>>,
}

/// Hosts, counted once each under the first cause.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct HostsDoc {
    /// All.
    total: u32,
    /// By cause.
    excluded: BTreeMap<Reason, u32>,
}

/// What placement says of a resource that is to be made.
pub async fn verdict(ctx: &Ctx, row: &ResourceRow) -> Result<PlacementDoc, Problem> {
    let request = request(ctx, row).await?;
    let cluster = cluster(ctx).await?;
    let by_host = match ctx.reader() {
        Reader::Operator => Some(cluster.explain(&request)),
        Reader::Tenant => None,
    };
    Ok(match cluster.judge(&request) {
        Verdict::Placed(_) => PlacementDoc {
            fits: true,
            hosts: HostsDoc {
                total: u32::try_from(cluster.len()).unwrap_or(u32::MAX),
                excluded: BTreeMap::new(),
            },
            fits_with: None,
            by_host,
        },
        Verdict::NoRoom(Refusal {
            total,
            excluded,
            fits_with,
        }) => PlacementDoc {
            fits: false,
            hosts: HostsDoc { total, excluded },
            fits_with,
            by_host,
        },
    })
}

/// For an operator who reads a job that waits for capacity: what each host has to say to it now, those that refused it included. None
/// for a job that waits for something else, and for who isn't to know of hosts.
pub async fn by_host(ctx: &Ctx, job: &JobRow) -> Result<Option<Vec<HostVerdict>>, Problem> {
    let waits = job.waiting.as_ref().is_some_and(|w| w.reason == "capacity");
    if ctx.reader() != Reader::Operator || !waits || job.state.is_done() {
        return Ok(None);
    }
    let Some(row) = ctx.app.store.resource_by_id(job.resource_id).await? else {
        return Ok(None);
    };
    let mut request = request(ctx, &row).await?;
    for (host, exclusion) in ctx.app.store.job_exclusions(job.id).await? {
        if exclusion.until <= Utc::now() {
            continue;
        }
        match exclusion.reason.as_str() {
            "image" => request.image_refused.push(host),
            _no_room => request.refused.push(host),
        }
    }
    Ok(Some(cluster(ctx).await?.explain(&request)))
}

async fn cluster(ctx: &Ctx) -> Result<Cluster, Problem> {
    let view = ctx.app.store.cluster_view().await?;
    let homes: HashMap<ResourceId, HostName> = view.homes.iter().map(|(n, h)| (*n, h.clone())).collect();
    Ok(Cluster::new(hosts(view), &homes, 0))
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

async fn request(ctx: &Ctx, row: &ResourceRow) -> Result<Request, Problem> {
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
    let (demand, least) = match (ops.demand_resolved(&resolved), ops.least_resolved(&resolved)) {
        (Ok(demand), Ok(least)) => (demand, least),
        (Err(_), _) | (_, Err(_)) => (ops.demand(&row.spec)?, Demand::default()),
    };
    Ok(Request {
        demand,
        least,
        host_labels: ops.host_labels(&row.spec)?,
        networks: of_kind(Kind::Network).map(|n| n.id).collect(),
        image,
        apart_from,
        ..Request::default()
    })
}
