//! What the agent's tests share: a plan, orders, and a simulated host whose effects a test holds, fails and counts.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used
)]

use rhyzome_agent::apply::{Answer, Engine, Refusal};
use rhyzome_agent::driver::{
    Capacity, Direction, Driver, Effect, Fut, GuestSeen, Held, Load, Seen, StepContext, StepError,
};
use rhyzome_agent::ledger::Ledger;
use rhyzome_agent::simulated::{Settings, SimulatedDriver};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::Verdict;
use rhyzome_model::kinds::{ImageFormat, ImageSource, Power, RestartPolicy};
use rhyzome_model::step::{
    Action, DropShared, EnsureDisk, EnsureImage, EnsureInstance, EnsureNetwork, NetworkClaim, Nic,
    RemoveDisk, RemoveInstance, SetPower, Step,
};
use rhyzome_proto::agent::ApplyOutcome;
use rhyzome_proto::event::OutcomeKind;
use rhyzome_proto::job::{self, Order};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, broadcast, watch};

pub const HOST: &str = "sim-1";

pub fn host() -> HostName {
    HOST.into()
}

/// An instance's create: five steps, each with its undo.
pub fn plan(instance: ResourceId, network: ResourceId, image: ResourceId) -> Vec<Step> {
    let drop = |object| DropShared {
        object,
        holder: instance,
    };
    let ensure_network = EnsureNetwork {
        network,
        tenant: "demo".into(),
        generation: 1,
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        dns: Vec::new(),
        leases: Vec::new(),
        claim: Some(NetworkClaim {
            holder: instance,
            leases: Vec::new(),
        }),
    };
    let ensure_image = EnsureImage {
        image,
        source: ImageSource::File("tiny.qcow2".into()),
        format: ImageFormat::Qcow2,
        sha256: None,
        holder: instance,
    };
    let ensure_disk = EnsureDisk {
        disk: instance,
        image,
        image_sha256: "0".repeat(64),
        image_format: ImageFormat::Qcow2,
        size_gib: 1,
    };
    let ensure_instance = EnsureInstance {
        instance,
        tenant: "demo".into(),
        name: "web".into(),
        generation: 1,
        vcpus: 1,
        memory_mib: 128,
        interfaces: vec![Nic {
            network,
            mac: "02:00:00:00:00:01".into(),
            ip: "10.0.0.5".parse().unwrap(),
            prefix_len: 24,
            gateway: "10.0.0.1".parse().unwrap(),
        }],
        user_data: None,
        ssh_keys: Vec::new(),
        restart: RestartPolicy::Always,
        stop_timeout_s: 60,
    };
    let power = |power| Action::SetPower(SetPower { instance, power });
    vec![
        Step::undoable(
            Action::EnsureNetwork(ensure_network),
            Action::DropNetwork(drop(network)),
        ),
        Step::undoable(Action::EnsureImage(ensure_image), Action::DropImage(drop(image))),
        Step::undoable(
            Action::EnsureDisk(ensure_disk),
            Action::RemoveDisk(RemoveDisk { disk: instance }),
        ),
        Step::undoable(
            Action::EnsureInstance(Box::new(ensure_instance)),
            Action::RemoveInstance(RemoveInstance { instance }),
        ),
        Step::undoable(power(Power::On), power(Power::Off)),
    ]
}

/// A job on one instance.
#[derive(Clone)]
pub struct Job {
    pub job: JobId,
    pub resource: ResourceId,
    pub steps: Vec<Step>,
}

impl Job {
    pub fn new() -> Self {
        let resource = ResourceId::new();
        Self {
            job: JobId::new(),
            resource,
            steps: plan(resource, ResourceId::new(), ResourceId::new()),
        }
    }

    /// Another job on the same instance.
    pub fn next(&self) -> Self {
        Self {
            job: JobId::new(),
            ..self.clone()
        }
    }

    pub fn order(&self, fence: i64) -> Order {
        Order {
            version: 1,
            job: self.job.0.as_bytes().to_vec(),
            attempt: 1,
            fence,
            epoch: 1,
            mode: job::Mode::Forward.into(),
            host: HOST.into(),
            tenant: "demo".into(),
            resource_kind: "instance".into(),
            resource: self.resource.0.as_bytes().to_vec(),
            action: "create".into(),
            steps: self
                .steps
                .iter()
                .map(|step| serde_json::to_vec(step).unwrap().into())
                .collect(),
            ..Order::default()
        }
    }

    pub fn undo(&self, fence: i64, verdict: Verdict) -> Order {
        let verdict = job::Verdict::from(verdict).into();
        Order {
            mode: job::Mode::Undo.into(),
            verdict,
            ..self.order(fence)
        }
    }
}

/// What a test does to one step's effect.
#[derive(Clone)]
pub enum Script {
    /// Before the effect, waits until let go; a cancel ends the wait without the effect.
    Hold(Arc<Gate>),
    /// Before the effect, waits until let go, whatever is cancelled; then makes it.
    Stubborn(Arc<Gate>),
    /// After the effect, waits until let go.
    HoldAfter(Arc<Gate>),
    /// Fails instead of the effect, once.
    Fail(StepError),
    /// Panics, once.
    Panic,
}

/// A test waits until an effect has come here, and lets it go on.
#[derive(Default)]
pub struct Gate {
    here: watch::Sender<u32>,
    open: Notify,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub async fn reached(&self) {
        self.here.subscribe().wait_for(|n| *n > 0).await.unwrap();
    }

    pub fn let_go(&self) {
        self.open.notify_one();
    }

    async fn pass(&self) {
        self.here.send_modify(|n| *n += 1);
        self.open.notified().await;
    }
}

/// A simulated host under a test's hand.
pub struct Controlled {
    inner: SimulatedDriver,
    scripts: Mutex<HashMap<String, Script>>,
    /// Names of effects as they began, `undo_` before those of an undo, `observe_` before looks.
    pub calls: Mutex<Vec<String>>,
    /// By object of an instance: how many effects are in it now.
    inside: Mutex<HashMap<ResourceId, u32>>,
}

impl Controlled {
    pub fn open(dir: &Path) -> Arc<Self> {
        let settings = Settings {
            hosts: vec![host()],
            vcpus: 1000,
            memory_mib: 1 << 20,
            disk_gib: 10_000,
            vcpu_overcommit: 1.0,
            labels: BTreeMap::new(),
            dir: dir.to_owned(),
            faults: None,
        };
        Arc::new(Self {
            inner: SimulatedDriver::open(settings).unwrap(),
            scripts: Mutex::default(),
            calls: Mutex::default(),
            inside: Mutex::default(),
        })
    }

    pub fn script(&self, step: &str, script: Script) {
        self.scripts.lock().unwrap().insert(step.into(), script);
    }

    pub fn clear(&self) {
        self.scripts.lock().unwrap().clear();
        self.calls.lock().unwrap().clear();
    }

    pub fn called(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub async fn held(&self) -> Vec<Held> {
        self.inner.inventory(&host()).await.unwrap()
    }

    fn take(&self, name: &str) -> Option<Script> {
        let mut scripts = self.scripts.lock().unwrap();
        match scripts.get(name) {
            Some(Script::Fail(_) | Script::Panic) => scripts.remove(name),
            other => other.cloned(),
        }
    }

    async fn make(&self, context: &StepContext, action: &Action, name: &str) -> Result<Effect, StepError> {
        let script = self.take(name);
        match &script {
            Some(Script::Hold(gate)) => {
                tokio::select! {
                    () = gate.pass() => {}
                    () = context.cancel.cancelled() => {
                        return Err(StepError::new(rhyzome_model::job::ErrorClass::Unavailable, "STOPPED", "Stopped."));
                    }
                }
            }
            Some(Script::Stubborn(gate)) => gate.pass().await,
            Some(Script::Fail(error)) => return Err(error.clone()),
            Some(Script::Panic) => panic!("the test's own"),
            Some(Script::HoldAfter(_)) | None => {}
        }
        let made = self.inner.make_so(context, action).await;
        if let Some(Script::HoldAfter(gate)) = &script {
            gate.pass().await;
        }
        made
    }
}

fn step_of(action: &Action, direction: Direction) -> String {
    let undone = match action {
        Action::DropNetwork(_) => "ensure_network",
        Action::DropImage(_) => "ensure_image",
        Action::RemoveDisk(_) => "ensure_disk",
        Action::RemoveInstance(_) => "ensure_instance",
        other => other.name(),
    };
    match direction {
        Direction::Forward => action.name().to_owned(),
        Direction::Undo => format!("undo_{undone}"),
    }
}

impl Driver for Controlled {
    fn start(&self) -> Fut<'_, Result<(), StepError>> {
        self.inner.start()
    }
    fn hosts(&self) -> Vec<HostName> {
        self.inner.hosts()
    }
    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            let name = step_of(action, context.direction);
            self.calls.lock().unwrap().push(name.clone());
            let (_, object) = action.object();
            let inside = {
                let mut inside = self.inside.lock().unwrap();
                let count = inside.entry(object).or_default();
                *count += 1;
                *count
            };
            assert_eq!(inside, 1, "effects on {object} overlap: {name}");
            let made = self.make(context, action, &name).await;
            *self.inside.lock().unwrap().get_mut(&object).unwrap() -= 1;
            made
        })
    }
    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("observe_{}", action.name()));
        self.inner.observe(context, action)
    }
    fn inventory<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>> {
        self.inner.inventory(host)
    }
    fn capacity<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>> {
        self.inner.capacity(host)
    }
    fn load<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Load, StepError>> {
        self.inner.load(host)
    }
    fn guests<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>> {
        self.inner.guests(host)
    }
    fn watch_guests(&self) -> broadcast::Receiver<GuestSeen> {
        self.inner.watch_guests()
    }
    fn console_tail<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>> {
        self.inner.console_tail(host, instance, lines)
    }
}

/// An agent's engine over a controlled host.
pub struct Agent {
    pub engine: Arc<Engine>,
    pub driver: Arc<Controlled>,
    ledger: tempfile::TempDir,
    _effects: Option<tempfile::TempDir>,
}

pub fn now_ms() -> i64 {
    1_000_000
}

impl Agent {
    /// Told epoch 1.
    pub async fn new() -> Self {
        let agent = Self::untold();
        assert!(agent.engine.told(&host(), Epoch(1), Fence(0)).await.unwrap());
        agent
    }

    pub fn untold() -> Self {
        let effects = tempfile::tempdir().unwrap();
        let driver = Controlled::open(effects.path());
        Self {
            _effects: Some(effects),
            ..Self::over(driver, tempfile::tempdir().unwrap())
        }
    }

    fn over(driver: Arc<Controlled>, ledger: tempfile::TempDir) -> Self {
        let open = Ledger::open(ledger.path(), &[host()]).unwrap();
        let engine = Engine::new(open, driver.clone(), now_ms);
        Self {
            engine,
            driver,
            ledger,
            _effects: None,
        }
    }

    /// What a crash now would leave: the ledger's file as it is, the same host; the old one goes on as a ghost would not.
    pub async fn crashed(&self) -> Self {
        let ledger = tempfile::tempdir().unwrap();
        std::fs::copy(self.ledger.path().join("ledger"), ledger.path().join("ledger")).unwrap();
        self.driver.clear();
        self.driver.inside.lock().unwrap().clear();
        let agent = Self::over(self.driver.clone(), ledger);
        assert!(agent.engine.told(&host(), Epoch(1), Fence(0)).await.unwrap());
        agent
    }

    pub async fn apply(&self, order: &Order) -> ApplyOutcome {
        match self.start(order).await.unwrap() {
            Answer::Now(outcome) => outcome,
            Answer::Follow(op) => op.outcome().await,
        }
    }

    pub async fn start(&self, order: &Order) -> Result<Answer, Refusal> {
        self.engine.apply(order).await
    }

    pub async fn kind(&self, order: &Order) -> OutcomeKind {
        kind(&self.apply(order).await)
    }

    /// Begins an order and leaves it.
    pub async fn begin(&self, order: &Order) -> tokio::task::JoinHandle<ApplyOutcome> {
        match self.start(order).await.unwrap() {
            Answer::Now(outcome) => tokio::spawn(async move { outcome }),
            Answer::Follow(op) => tokio::spawn(async move { op.outcome().await }),
        }
    }
}

pub fn kind(outcome: &ApplyOutcome) -> OutcomeKind {
    outcome.outcome.as_ref().unwrap().kind()
}
