//! An agent on its host: the real engine over a ledger whose disk is in memory, and the calls to it. It dies, loses what was not
//! written, and begins again; what it made on the host stays.

use crate::clock::agents_ms;
use crate::lock;
use crate::mutant::Mutant;
use crate::rig::Rig;
use crate::sim::Sim;
use prost::Message;
use rhyzome_agent::apply::{Answer as Applied, Engine};
use rhyzome_agent::driver::{Driver, Held};
use rhyzome_agent::ledger::{Ledger, Queued};
use rhyzome_agent::serve::{self, status};
use rhyzome_agent::simulated::{Settings, SimulatedDriver};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::kinds::Demand;
use rhyzome_proto::agent::{ApplyOutcome, HostHello, Inventory};
use rhyzome_proto::event::StepResult;
use rhyzome_proto::job::Order;
use rhyzome_worker::call::{Heard, failed, meaning};
use rhyzome_worker::decide::Answer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

/// A call on which nothing is heard for so long is broken off.
const SILENCE_MS: u64 = 3_000;

/// See the module.
pub(crate) struct Host {
    pub(crate) name: HostName,
    ledger_id: Uuid,
    /// What is on the host, whoever runs there.
    world: Mutex<Arc<SimulatedDriver>>,
    /// What was written of the ledger.
    disk: Mutex<Vec<u8>>,
    life: Mutex<Option<Life>>,
    lives: AtomicU64,
    /// It was put back to a copy, and that may still be known to nobody: until its agent is told a higher epoch than that.
    put_back_in: AtomicI64,
    /// It was put back once: it may hold more than is reserved.
    crowded: AtomicBool,
    /// Whether callers get through.
    reachable: AtomicBool,
    /// There is something to write.
    pub(crate) write: Notify,
    /// Who is at a resource with an effect now.
    pub(crate) inside: Mutex<BTreeMap<ResourceId, (JobId, u32)>>,
    /// The number of the last job that had an effect on a resource.
    pub(crate) last: Mutex<BTreeMap<ResourceId, i64>>,
    /// Steps whose undo was made so: for a mutant.
    pub(crate) undone: Mutex<BTreeSet<(JobId, u32)>>,
    /// For a mutant.
    ever_higher: AtomicI64,
}

/// From an agent's start to its death.
#[derive(Clone)]
struct Life {
    number: u64,
    engine: Arc<Engine>,
    dead: CancellationToken,
}

/// A host's folder, as it was at a moment.
#[derive(Clone)]
pub(crate) struct Copied {
    world: Arc<SimulatedDriver>,
    disk: Vec<u8>,
}

impl Host {
    /// A host without an agent yet.
    pub(crate) fn new(name: HostName, offered: Demand, ledger_id: Uuid) -> Self {
        let settings = Settings {
            hosts: vec![name.clone()],
            vcpus: offered.vcpus as u32,
            memory_mib: offered.memory_mib as u64,
            disk_gib: offered.disk_gib as u64,
            vcpu_overcommit: 1.0,
            labels: BTreeMap::new(),
            dir: std::path::PathBuf::new(),
            faults: None,
        };
        Self {
            name,
            ledger_id,
            world: Mutex::new(Arc::new(SimulatedDriver::in_memory(settings))),
            disk: Mutex::default(),
            life: Mutex::default(),
            lives: AtomicU64::new(0),
            put_back_in: AtomicI64::new(-1),
            crowded: AtomicBool::new(false),
            reachable: AtomicBool::new(true),
            write: Notify::new(),
            inside: Mutex::default(),
            last: Mutex::default(),
            undone: Mutex::default(),
            ever_higher: AtomicI64::new(1_000_000),
        }
    }

    pub(crate) fn reach(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    fn life(&self) -> Option<Life> {
        lock(&self.life).clone()
    }

    /// Whether a caller gets through to a live agent.
    pub(crate) fn answers(&self) -> bool {
        self.reachable.load(Ordering::Relaxed) && self.life().is_some()
    }

    /// The agent begins, with what was written of its ledger.
    pub(crate) fn begin(self: &Arc<Self>, sim: &Arc<Sim>) {
        let disk = lock(&self.disk).clone();
        let ledger = match Ledger::held(&disk, &[(self.name.clone(), self.ledger_id)]) {
            Ok(ledger) => ledger,
            Err(error) => {
                return sim.broken(format!("5: the ledger of {} can't be read: {error}", self.name));
            }
        };
        let dead = CancellationToken::new();
        let rig: Arc<dyn Driver> = Arc::new(Rig::new(sim, self, dead.clone()));
        let engine = Engine::new(ledger, rig, agents_ms);
        let number = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        *lock(&self.life) = Some(Life { number, engine, dead });
        sim.say(format_args!("agent {} begins", self.name));
    }

    /// The agent dies, and begins again some time later.
    pub(crate) fn die(self: &Arc<Self>, sim: &Arc<Sim>, why: &str) {
        let Some(life) = lock(&self.life).take() else {
            return;
        };
        sim.say(format_args!("agent {} dies: {why}", self.name));
        life.dead.cancel();
        lock(&self.inside).clear();
        let (host, sim) = (self.clone(), sim.clone());
        tokio::spawn(async move {
            sim.doze(50, 6_000).await;
            host.begin(&sim);
        });
    }

    pub(crate) fn world(&self) -> Arc<SimulatedDriver> {
        lock(&self.world).clone()
    }

    /// A copy of its folder, as of now.
    pub(crate) fn copied(&self) -> Copied {
        Copied {
            world: Arc::new(self.world().copied()),
            disk: lock(&self.disk).clone(),
        }
    }

    /// Its folder is put back to a copy: its agent dies of it, if it lives, and begins with that.
    pub(crate) fn put_back(self: &Arc<Self>, sim: &Arc<Sim>, copy: &Copied) {
        self.die(sim, "its host is put back");
        let epoch = lock(&sim.books).hosts.get(&self.name).map_or(0, |h| h.epoch);
        self.put_back_in.store(epoch, Ordering::Relaxed);
        self.crowded.store(true, Ordering::Relaxed);
        *lock(&self.world) = Arc::new(copy.world.copied());
        lock(&self.disk).clone_from(&copy.disk);
    }

    /// Whether it was put back, and nobody but the dice knows: what its agent refused before it may do now.
    pub(crate) fn is_put_back_unnoticed(&self) -> bool {
        self.put_back_in.load(Ordering::Relaxed) >= 0
    }

    /// Whether it may hold more than is reserved.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Whether its ledger has something to write.
    pub(crate) fn look_at_ledger(&self) {
        let queued = self
            .life()
            .is_some_and(|l| l.engine.ledger().queued() != Queued::Nothing);
        if queued {
            self.write.notify_one();
        }
    }

    /// The disk under the ledger: what is queued is written a little later, and before or after that the agent may die.
    pub(crate) async fn disk(self: Arc<Self>, sim: Arc<Sim>) {
        loop {
            self.write.notified().await;
            let Some(life) = self.life() else { continue };
            match life.engine.ledger().queued() {
                Queued::Nothing => continue,
                Queued::Urgent => sim.doze(0, 4).await,
                Queued::Lazy => sim.doze(0, 60).await,
            }
            if life.dead.is_cancelled() {
                continue;
            }
            if sim.wrong(|o| o.agent_crash / 4.0) {
                self.die(&sim, "before its ledger was written");
                continue;
            }
            life.engine
                .ledger()
                .write_held(|bytes| lock(&self.disk).extend_from_slice(bytes));
            if sim.wrong(|o| o.agent_crash / 4.0) {
                self.die(&sim, "after its ledger was written");
            }
        }
    }

    /// A worker's call: what it means to the worker, and what it heard of steps.
    pub(crate) async fn call(self: &Arc<Self>, sim: &Arc<Sim>, order: &Order) -> (Answer, Vec<StepResult>) {
        sim.doze(0, 6).await;
        if !self.answers() {
            sim.clock.sleep(20).await;
            let status = Status::unavailable("nobody is there");
            return (failed(&status, Heard::Nothing), Vec::new());
        }
        if sim.wrong(|o| o.call_lost) {
            sim.doze(20, SILENCE_MS).await;
            return (
                failed(&Status::unknown("the call was lost"), Heard::Nothing),
                Vec::new(),
            );
        }
        // As over the wire.
        let order = match Order::decode(order.encode_to_vec().as_slice()) {
            Ok(order) => order,
            Err(error) => {
                sim.broken(format!("3: an order that can't be read: {error}"));
                return (Answer::Nonsense, Vec::new());
            }
        };
        if sim.wrong(|o| o.twice / 4.0) {
            let (host, sim, order) = (self.clone(), sim.clone(), order.clone());
            tokio::spawn(async move {
                sim.doze(0, 3_000).await;
                // Nobody hears the answer.
                let _ = host.applied(&sim, order).await;
            });
        }
        let told = tokio::select! {
            biased;
            told = self.applied(sim, order) => told,
            () = sim.clock.sleep(SILENCE_MS) => Err((Status::deadline_exceeded("silence"), Heard::Something)),
        };
        if sim.wrong(|o| o.answer_lost) {
            let status = Status::unknown("the answer was lost");
            return (failed(&status, Heard::Something), Vec::new());
        }
        match told {
            Ok(ApplyOutcome { outcome, steps }) => (outcome.map_or(Answer::Nonsense, meaning), steps),
            Err((status, heard)) => (failed(&status, heard), Vec::new()),
        }
    }

    async fn applied(&self, sim: &Arc<Sim>, mut order: Order) -> Result<ApplyOutcome, (Status, Heard)> {
        let died = || (Status::aborted("the agent died"), Heard::Something);
        let Some(life) = self.life() else {
            return Err((Status::unavailable("nobody is there"), Heard::Nothing));
        };
        if sim.is_mutant(Mutant::NoFenceCheck) {
            order.fence = self.ever_higher.fetch_add(1, Ordering::Relaxed);
        }
        let answer = tokio::select! {
            biased;
            () = life.dead.cancelled() => return Err(died()),
            answer = life.engine.apply(&order) => answer,
        };
        match answer {
            Ok(Applied::Now(outcome)) => Ok(outcome),
            Ok(Applied::Follow(op)) => tokio::select! {
                biased;
                () = life.dead.cancelled() => Err(died()),
                outcome = op.outcome() => Ok(outcome),
            },
            Err(refusal) => Err((status(&refusal), Heard::Nothing)),
        }
    }

    /// What the agent says first, if it answers, and in which of its lives.
    pub(crate) fn hello(&self) -> Option<(u64, HostHello)> {
        let life = self.life().filter(|_| self.answers())?;
        let books = life.engine.books(&self.name)?;
        Some((life.number, serve::hello(&self.name, &books)))
    }

    /// All that is on the host, as its agent says; none if it isn't heard.
    pub(crate) async fn inventory(&self, sim: &Sim) -> Option<Inventory> {
        sim.doze(0, 20).await;
        let life = self.life().filter(|_| self.answers())?;
        if sim.wrong(|o| o.call_lost) {
            return None;
        }
        let made = tokio::select! {
            biased;
            () = life.dead.cancelled() => return None,
            made = serve::inventory(&life.engine, &self.name) => made.ok()?,
        };
        sim.doze(0, 20).await;
        if sim.wrong(|o| o.answer_lost) {
            return None;
        }
        Inventory::decode(made.encode_to_vec().as_slice()).ok()
    }

    /// The scheduler's word on a watch of one of the agent's lives: false if nobody heard it.
    pub(crate) async fn told(&self, sim: &Arc<Sim>, number: u64, epoch: i64, floor: i64) -> bool {
        let Some(life) = self.life().filter(|l| l.number == number && self.answers()) else {
            return false;
        };
        if epoch > self.put_back_in.load(Ordering::Relaxed) {
            self.put_back_in.store(-1, Ordering::Relaxed);
        }
        let floor = if sim.is_mutant(Mutant::NoFenceCheck) {
            0
        } else {
            floor
        };
        tokio::select! {
            biased;
            () = life.dead.cancelled() => false,
            told = life.engine.told(&self.name, Epoch(epoch), Fence(floor)) => told.unwrap_or(false),
        }
    }

    /// All that is on the host.
    pub(crate) async fn held(&self) -> Vec<Held> {
        self.world().inventory(&self.name).await.unwrap_or_default()
    }

    /// The fence that the agent holds for a resource.
    pub(crate) fn fence_of(&self, resource: ResourceId) -> Option<i64> {
        self.life()?.engine.fence_of(&self.name, resource).map(|f| f.0)
    }
}
