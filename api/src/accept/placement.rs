//! Where a resource would be placed now, and what each host has to say to it: for dry runs, and for operators who read a job that waits.

use crate::ctx::Ctx;
use crate::problem::Problem;
use crate::shapes::Reader;
use chrono::Utc;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::kinds::{Demand, Kind, Resolved, ResolvedRef, kept_gib};
use rhyzome_model::place::{
    Cluster, Cordon, FitsWith, HostVerdict, HostView, ImageNeed, Reach, Reason, Refusal, Request, Verdict,
    grow,
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
            hosts: hosts_of(by_host.as_deref().unwrap_or(&cluster.explain(&request))),
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

/// Each host under its first cause.
fn hosts_of(verdicts: &[HostVerdict]) -> HostsDoc {
    let mut excluded = BTreeMap::new();
    for reason in verdicts.iter().filter_map(|verdict| verdict.excluded) {
        *excluded.entry(reason).or_insert(0) += 1;
    }
    HostsDoc {
        total: u32::try_from(verdicts.len()).unwrap_or(u32::MAX),
        excluded,
    }
}

/// Whether the host that a resource is on has room for what it shall be: no other is asked. None of one that is nowhere yet.
pub async fn where_it_is(
    ctx: &Ctx,
    before: &ResourceRow,
    row: &ResourceRow,
) -> Result<Option<PlacementDoc>, Problem> {
    let Some(name) = &row.host else {
        return Ok(None);
    };
    let view = ctx.app.store.cluster_view().await?;
    let Some(host) = hosts(view).into_iter().find(|host| host.name == *name) else {
        return Ok(None);
    };
    let ops = row.kind.ops();
    let demand = |resolved: &Resolved| {
        ops.demand_resolved(resolved)
            .or_else(|_| ops.demand(&resolved.spec))
    };
    let (resolved, _) = resolved(ctx, row).await?;
    let mut wanted = demand(&resolved)?;
    if let Some(applied) = &before.applied {
        let spec = applied.clone();
        wanted = wanted.max(demand(&Resolved { spec, ..resolved })?);
    }
    let refusal = match host.reach {
        Reach::Unreachable => Some(Refusal {
            total: 1,
            excluded: [(Reason::Unreachable, 1)].into(),
            fits_with: None,
        }),
        Reach::Reachable => grow(host.free, ctx.app.store.reserved_for(row.id).await?, wanted),
    };
    let fits = refusal.is_none();
    let refusal = refusal.unwrap_or_else(|| Refusal {
        total: 1,
        excluded: BTreeMap::new(),
        fits_with: None,
    });
    let by_host = (ctx.reader() == Reader::Operator).then(|| {
        vec![HostVerdict {
            host: host.name,
            excluded: refusal.excluded.keys().next().copied(),
            free: host.free,
        }]
    });
    Ok(Some(PlacementDoc {
        fits,
        hosts: HostsDoc {
            total: refusal.total,
            excluded: refusal.excluded,
        },
        fits_with: refusal.fits_with,
        by_host,
    }))
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

fn facts(row: &ResourceRow) -> Option<ImageFacts> {
    row.facts.as_ref().and_then(|f| ImageFacts::deserialize(f).ok())
}

/// A resource with what it refers to.
async fn resolved(
    ctx: &Ctx,
    row: &ResourceRow,
) -> Result<(Resolved, BTreeMap<ResourceId, ResourceRow>), Problem> {
    let ops = row.kind.ops();
    let ids: Vec<ResourceId> = ops
        .references(&row.spec)?
        .iter()
        .filter_map(|r| r.target.parse().ok())
        .collect();
    let found = ctx.app.store.references_of(&ids).await?;
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
    Ok((resolved, found))
}

async fn request(ctx: &Ctx, row: &ResourceRow) -> Result<Request, Problem> {
    let ops = row.kind.ops();
    let (resolved, found) = resolved(ctx, row).await?;
    let of_kind = |kind| found.values().filter(move |r: &&ResourceRow| r.kind == kind);
    let image = of_kind(Kind::Image).next().map(|image| ImageNeed {
        image: image.id,
        disk_gib: facts(image).as_ref().map_or(1, kept_gib),
    });
    let apart_from: Vec<String> = ops.apart_from(&row.spec)?.into_iter().map(|r| r.target).collect();
    let apart_from = ctx.app.store.hosts_of(&row.tenant, row.kind, &apart_from).await?;
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
