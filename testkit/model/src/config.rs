//! What a run explores: the jobs, the sizes, the rules and how many faults of each kind may happen.
//!
//! Guarantees a finite state space: whatever could repeat for ever has a budget.

use crate::rules::Rules;

/// Index of a job in [`Config::jobs`].
pub type JobIx = u8;
/// Index of a claiming resource (an instance).
pub type ResourceIx = u8;
/// Index of a host, which is its agent's too.
pub type HostIx = u8;
/// A fence, drawn from Postgres' sequence.
pub type Fence = u8;
/// How often a host has begun anew: its ledger was lost.
pub type Epoch = u8;

/// Counts the ends that a ledger has recorded, where hosts are put back.
pub type Serial = u8;

/// Most jobs in a configuration.
pub const JOBS: usize = 4;
/// Most claiming resources.
pub const RESOURCES: usize = 2;
/// Hosts, and agents.
pub const HOSTS: usize = 2;
/// Workers, all alike.
pub const WORKERS: usize = 2;
/// Schedulers, all alike.
pub const SCHEDULERS: usize = 2;
/// Most steps of a plan.
pub const STEPS: usize = 2;

/// What a job does with its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Makes the instance, and takes a claim on the network.
    Create,
    /// Changes the instance where it is: its spec, or its power.
    Update,
    /// Removes the instance, and drops the claim.
    Delete,
    /// Makes the instance, and its claim, where it lives, as it was applied.
    Repair,
    /// Removes what a host holds of a resource that isn't to be there.
    Clear,
}

/// When a job is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Before anything else happens.
    AtFirst,
    /// At any time, or never; a second create once the first came to nothing.
    AnyTime,
    /// By reconcile, which finds a cause.
    Reconcile,
}

/// A job of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobSpec {
    /// What it does.
    pub action: Action,
    /// On which resource.
    pub resource: ResourceIx,
    /// When it is accepted.
    pub asked: Asked,
}

/// Whether instances hold a shared network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// No network: a plan has one step.
    None,
    /// All instances hold the same network: a plan has two steps.
    Shared,
}

/// How hosts are chosen among those that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The first that fits: hosts are alike.
    First,
    /// Any that fits.
    Any,
}

/// How finely a transaction and what follows it are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grain {
    /// A scheduler publishes in the step of the commit.
    Together,
    /// A scheduler can be paused between commit and publish, commit and ack.
    Apart,
}

/// How often each fault may still happen. A pause needs no budget: any actor may be slower than all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The ack wait runs out while a worker holds the order, and the bus delivers it again.
    pub redeliver: u8,
    /// The bus loses one order or event that it had acknowledged.
    pub lose: u8,
    /// The bus loses everything.
    pub wipe: u8,
    /// A publish times out after it was stored, and is done again.
    pub repeat: u8,
    /// A worker dies.
    pub worker_crash: u8,
    /// A scheduler dies between a commit and what follows.
    pub scheduler_crash: u8,
    /// An agent dies; what it started on the host may live on for a while.
    pub agent_crash: u8,
    /// A worker can't reach the agent, gives the order back; the agent goes on.
    pub suspend: u8,
    /// A host has no room after all.
    pub refuse: u8,
    /// A step can't succeed.
    pub broken: u8,
    /// The user cancels a create.
    pub cancel: u8,
    /// A create's deadline passes.
    pub deadline: u8,
    /// A floor is computed from a snapshot that doesn't see the newest order's commit yet.
    pub early_floor: u8,
    /// An order was delivered too often: the bus drops it, and Postgres hears of it.
    pub poison: u8,
    /// An operator gives an undo up.
    pub abandon: u8,
    /// An agent's ledger is lost; what is on the host stays.
    pub ledger_loss: u8,
    /// A host goes back to an older copy of itself: its objects and its agent's ledger.
    pub put_back: u8,
    /// A host loses an instance, and its ledger doesn't tell.
    pub vanish: u8,
    /// An inventory shows nothing of what is there.
    pub blind: u8,
    /// Taking an update back fails, and will fail again.
    pub stuck: u8,
}

/// A bounded system to explore.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Shown in the table.
    pub name: &'static str,
    /// The rules followed.
    pub rules: Rules,
    /// The jobs, at most [`JOBS`].
    pub jobs: &'static [JobSpec],
    /// Hosts in use, at most [`HOSTS`].
    pub hosts: u8,
    /// Instances that a host holds.
    pub capacity: u8,
    /// Whether a network is shared.
    pub network: Network,
    /// How a host is chosen.
    pub choice: Choice,
    /// How finely schedulers act.
    pub grain: Grain,
    /// Whether agents prune their ledgers below the floor.
    pub prune: bool,
    /// The faults allowed.
    pub faults: Faults,
}

impl Config {
    /// Steps of each plan in this configuration.
    pub fn steps(&self) -> usize {
        match self.network {
            Network::None => 1,
            Network::Shared => 2,
        }
    }

    /// The resource of a job.
    pub fn resource(&self, job: JobIx) -> ResourceIx {
        self.jobs[usize::from(job)].resource
    }

    /// Resources in use.
    pub fn resources(&self) -> u8 {
        self.jobs.iter().map(|job| job.resource + 1).max().unwrap_or(0)
    }

    /// The jobs that reconcile may accept with a resource, to do this.
    pub fn mends(&self, resource: ResourceIx, action: Action) -> impl Iterator<Item = JobIx> + use<> {
        let jobs = self.jobs;
        let fits = move |job: &JobIx| {
            let spec = jobs[usize::from(*job)];
            spec.asked == Asked::Reconcile && spec.resource == resource && spec.action == action
        };
        (0..jobs.len() as JobIx).filter(fits)
    }

    /// What a job does.
    pub fn action(&self, job: JobIx) -> Action {
        self.jobs[usize::from(job)].action
    }

    /// The same system with another rule left out.
    #[must_use]
    pub fn with(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }
}
