//! The view of the hosts that placement works on: read from Postgres, reserved on as a batch goes, judged again under locks at the commit.

use crate::batch::Reads;
use rhyzome_model::ids::HostName;
use rhyzome_model::job::Mode;
use rhyzome_model::kinds::Demand;
use rhyzome_model::place::{self, Cluster, Cordon, HostView, Reach, Refusal};
use rhyzome_store::StoreError;
use rhyzome_store::dispatch::{DueJob, NewOrder};
use rhyzome_store::hosts::{ClusterView, HostRow};
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long a view serves before it is read anew.
const FRESH: Duration = Duration::from_millis(500);

/// Hosts as last read, with what this scheduler placed on them since.
pub struct View {
    /// For `place`.
    pub cluster: Cluster,
    /// Hosts whose watch is up.
    pub up: BTreeSet<HostName>,
    read_at: Option<Instant>,
    seed: u64,
}

impl View {
    /// Nothing read yet. Schedulers have different seeds, so that they don't pick alike.
    pub fn new(seed: u64) -> Self {
        Self {
            cluster: Cluster::new(Vec::new(), &HashMap::new(), seed),
            up: BTreeSet::new(),
            read_at: None,
            seed,
        }
    }

    /// Reads it, unless it is fresh.
    pub async fn refresh(&mut self, store: &impl Reads) -> Result<(), StoreError> {
        if self.read_at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        self.read(store).await
    }

    /// Reads it now.
    pub async fn read(&mut self, store: &impl Reads) -> Result<(), StoreError> {
        self.take(store.cluster_view().await?);
        Ok(())
    }

    /// As it was read just now.
    pub fn take(&mut self, view: ClusterView) {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.up = view
            .hosts
            .iter()
            .filter(|h| h.up)
            .map(|h| h.name.clone())
            .collect();
        self.cluster = cluster(view, self.seed);
        self.read_at = Some(Instant::now());
    }

    /// What it holds proved wrong: read it before it is used again.
    pub fn forget(&mut self) {
        self.read_at = None;
    }
}

/// What keeps an order from taking more of the host that holds its resource already; none where there is room, which is then taken
/// from the view. Such a resource can go nowhere else, so that only its host counts.
pub fn grow(cluster: &mut Cluster, job: &DueJob, order: &NewOrder) -> Option<Refusal> {
    let wanted = order.reserve.filter(|_| order.mode == Mode::Forward)?;
    let free = cluster.free(&order.host)?;
    let before = job.reserved;
    if let Some(refusal) = place::grow(free, before, wanted) {
        return Some(refusal);
    }
    if wanted != before {
        let left = Demand {
            vcpus: free.vcpus - (wanted.vcpus - before.vcpus),
            memory_mib: free.memory_mib - (wanted.memory_mib - before.memory_mib),
            disk_gib: free.disk_gib - (wanted.disk_gib - before.disk_gib),
        };
        cluster.set_free(&order.host, left);
    }
    None
}

fn cluster(view: ClusterView, seed: u64) -> Cluster {
    let ClusterView {
        hosts,
        mut images,
        homes,
    } = view;
    let hosts = hosts
        .into_iter()
        .map(|h| HostView {
            images: images.remove(&h.name).unwrap_or_default(),
            ..host_view(h)
        })
        .collect();
    Cluster::new(hosts, &homes.into_iter().collect(), seed)
}

fn host_view(host: HostRow) -> HostView {
    HostView {
        free: Demand {
            vcpus: host.offered.vcpus - host.used.vcpus,
            memory_mib: host.offered.memory_mib - host.used.memory_mib,
            disk_gib: host.offered.disk_gib - host.used.disk_gib,
        },
        capacity: host.offered,
        name: host.name,
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
        images: BTreeSet::new(),
    }
}
