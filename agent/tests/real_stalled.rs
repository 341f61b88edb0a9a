//! A host's storage that hangs holds up what needs it, and nothing else that its agent does.
//!
//! A named pipe stands in for a file of it: who opens that waits for as long as nobody opens the other end. The agent has one thread, so
//! that a single call that waits on it would stop all else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod real_support;
mod served;

use common::Job;
use nix::sys::stat::Mode;
use real_support::{PATIENCE, Plan, can_be_real, image_dir};
use rhyzome_agent::config::{AcceleratorKind, AgentConfig, DriverKind, NetworkingKind};
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::Verdict;
use rhyzome_model::step::{Action, DropShared, Step};
use rhyzome_proto::agent::host_report::Report;
use rhyzome_proto::agent::{ApplyOutcome, ApplyRequest, Inventory, InventoryRequest, apply_report};
use rhyzome_proto::event::OutcomeKind;
use rhyzome_proto::job::Order;
use rhyzome_runtime::Role;
use served::{Agent, Watch, World, apply, told};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::task::JoinHandle;

const HOST: &str = common::HOST;

/// A file that hangs whoever opens it.
struct Hangs {
    file: PathBuf,
    /// Dropped with it.
    _ends: mpsc::Sender<()>,
}

impl Hangs {
    fn at(file: &Path) -> Self {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(file, Mode::S_IRWXU).unwrap();
        let (ends, ended) = mpsc::channel::<()>();
        let file = file.to_owned();
        let at_last = file.clone();
        // Where all stands still, the test could not even fail.
        std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("everything waited for the storage");
                end(&at_last);
            }
        });
        Self { file, _ends: ends }
    }

    fn ends(&self) {
        end(&self.file);
    }
}

/// A test that fails leaves no thread that hangs.
impl Drop for Hangs {
    fn drop(&mut self) {
        if self.file.exists() {
            end(&self.file);
        }
    }
}

/// Whoever waits goes on, and the file is gone.
fn end(file: &Path) {
    let both_ends = OpenOptions::new().read(true).write(true).open(file).unwrap();
    std::fs::remove_file(file).unwrap();
    drop(both_ends);
}

/// A guest that is defined, and doesn't run.
fn create(plan: &Plan) -> Job {
    let [drop_network] = plan.drop_networks().try_into().unwrap();
    let drop_image = DropShared {
        object: plan.image,
        holder: plan.instance,
    };
    Job {
        job: JobId::new(),
        resource: plan.instance,
        steps: vec![
            Step::undoable(plan.ensure_network(), drop_network),
            Step::undoable(plan.ensure_image(), Action::DropImage(drop_image)),
            Step::undoable(
                Action::EnsureInstance(Box::new(plan.definition())),
                plan.remove_instance(),
            ),
        ],
    }
}

async fn agent(world: &World) -> Agent {
    let config = AgentConfig {
        driver: DriverKind::Qemu,
        image_dir: Some(image_dir()),
        networking: Some(NetworkingKind::User),
        accelerator: Some(AcceleratorKind::Tcg),
        disk_reserve_gib: 1,
        ..AgentConfig::default()
    };
    world.agent_with(HOST, config).await
}

fn instance(world: &World, plan: &Plan) -> PathBuf {
    let instances = world.state().join("objects/instances");
    instances.join(plan.instance.to_string())
}

async fn inventory(world: &World, agent: &Agent) -> Inventory {
    let mut scheduler = world.client(Role::Scheduler, &agent.address, HOST);
    let asked = InventoryRequest { host: HOST.into() };
    scheduler.get_inventory(asked).await.unwrap().into_inner()
}

async fn beats(watch: &mut Watch) {
    let is_beat = |r| matches!(r, Report::Heartbeat(_)).then_some(());
    // Those that were sent before lie in the channel still, 64 at most.
    for _ in 0..3 {
        watch.until(is_beat).await;
    }
}

fn begun(world: &World, agent: &Agent, order: Order) -> JoinHandle<ApplyOutcome> {
    let mut worker = world.client(Role::Worker, &agent.address, HOST);
    tokio::spawn(async move { apply(&mut worker, order).await.1 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_step_that_hangs_in_the_storage_holds_up_its_own_order_alone() {
    if !can_be_real() {
        return;
    }
    let world = World::new();
    let agent = agent(&world).await;
    let mut watch = told(&world, &agent, HOST).await;
    let plans = [61, 62].map(|last| Plan::new(ResourceId::new(), ResourceId::new(), last));
    let [hangs, goes] = &plans;
    let pipe = Hangs::at(&instance(&world, hangs).join("console.log"));
    let stuck = create(hangs);
    let mut worker = world.client(Role::Worker, &agent.address, HOST);
    let order = ApplyRequest {
        order: Some(stuck.order(1)),
    };
    let mut reports = worker.apply(order).await.unwrap().into_inner();
    loop {
        let report = reports.message().await.unwrap().unwrap();
        let Some(apply_report::Report::Step(step)) = report.report else {
            panic!("it ended: {report:?}")
        };
        if step.name == "ensure_instance" {
            break;
        }
    }

    beats(&mut watch).await;
    let _hello = told(&world, &agent, HOST).await;
    let (_, other) = apply(&mut worker, create(goes).order(2)).await;
    assert_eq!(common::kind(&other), OutcomeKind::Succeeded, "{other:?}");
    let held = inventory(&world, &agent).await;
    assert!(held.objects.iter().any(|o| o.id == goes.instance.to_string()));

    // Its undo waits until what hangs is gone, and holds up nothing else meanwhile.
    let undone = begun(&world, &agent, stuck.undo(3, Verdict::Cancelled));
    let (_, other) = apply(&mut worker, create(goes).undo(4, Verdict::Cancelled)).await;
    assert_eq!(common::kind(&other), OutcomeKind::Cancelled, "{other:?}");
    beats(&mut watch).await;
    assert!(!undone.is_finished() && instance(&world, hangs).is_dir());
    pipe.ends();
    let outcome = undone.await.unwrap();
    assert_eq!(common::kind(&outcome), OutcomeKind::Cancelled, "{outcome:?}");
    let held = inventory(&world, &agent).await;
    assert!(held.objects.is_empty(), "{held:?}");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn looks_that_hang_in_the_storage_hold_up_neither_heartbeats_nor_orders() {
    if !can_be_real() {
        return;
    }
    let world = World::new();
    let agent = agent(&world).await;
    let mut watch = told(&world, &agent, HOST).await;
    // All that lists instances reads it: what is held, who runs, how busy the host is.
    let plans = [63, 64].map(|last| Plan::new(ResourceId::new(), ResourceId::new(), last));
    let [hangs, goes] = &plans;
    let pipe = Hangs::at(&instance(&world, hangs).join("definition.json"));
    let mut asking = world.client(Role::Scheduler, &agent.address, HOST);
    let question = InventoryRequest { host: HOST.into() };
    let asked = tokio::spawn(async move { asking.get_inventory(question).await.unwrap().into_inner() });
    beats(&mut watch).await;
    // A new watch hears hello and heartbeats, and tells an epoch, though nobody can say what the host holds.
    let mut scheduler = world.client(Role::Scheduler, &agent.address, HOST);
    let mut second = Watch::open(&mut scheduler).await;
    second.tell(HOST, 2).await;
    beats(&mut second).await;
    let mut worker = world.client(Role::Worker, &agent.address, HOST);
    // As soon as the epoch was heard.
    loop {
        let mut order = Order {
            epoch: 2,
            ..create(goes).order(1)
        };
        // What it stands on: no instance is looked at for that.
        order.steps.truncate(2);
        let (_, outcome) = apply(&mut worker, order).await;
        if common::kind(&outcome) != OutcomeKind::Stale {
            assert_eq!(common::kind(&outcome), OutcomeKind::Succeeded, "{outcome:?}");
            break;
        }
    }
    assert!(!asked.is_finished());
    pipe.ends();
    let held = asked.await.unwrap();
    assert!(held.objects.iter().any(|o| o.id == hangs.instance.to_string()));
    let is_inventory = |r| matches!(r, Report::Inventory(_)).then_some(());
    second.until(is_inventory).await;
    agent.end().await;
}
