//! What can happen next in a state: the protocol's own steps, those of users and clocks, and the faults.
//!
//! Guarantees that every step of the protocol is offered whenever it is possible: an actor that is slow, paused or
//! starved is the path on which the others go first.

use crate::agent::Answer;
use crate::bus::{Event, Order};
use crate::config::{Asked, Choice, Config, HostIx, JobIx, ResourceIx};
use crate::ledger::Failure;
use crate::postgres::Mark;
use crate::rules::Rule;
use crate::scheduler::Scheduler;
use crate::state::State;
use crate::worker::{Call, Worker};

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Dispatch to a host.
    Dispatch(JobIx, HostIx),
    /// Dispatch of a job without steps.
    DispatchNothing(JobIx),
    /// The deadline of a job that no host can take.
    GiveUp(JobIx),
    /// Dispatch in mode undo of a marked job.
    Recall(JobIx),
    /// Sweep finds an order missing.
    Sweep(JobIx),
    /// Settle takes an event.
    Settle(Event),
    /// A scheduler does what follows its commit.
    Follow(usize),
    /// A worker gets an order.
    Pull(Order),
    /// A worker's call reaches the agent, or its answer comes.
    Call(usize),
    /// A worker publishes its outcome.
    Report(usize),
    /// A worker acks its order.
    Ack(usize),
    /// An agent's effect, and its record.
    Advance(HostIx, ResourceIx),
    /// A stray effect lands.
    Land(HostIx, ResourceIx),
    /// A stray effect is stopped, or ends by itself.
    Vanish(HostIx, ResourceIx),
    /// An agent learns its floor.
    Floor(HostIx),
    /// A host with a new ledger begins a new epoch, and is told.
    Watch(HostIx),
    /// A host's inventory shows nothing of what an abandoned job left.
    Forget(ResourceIx),
    /// A delete abandons the undo of a change.
    Moot(JobIx),
    /// A host is looked at, for what reconcile may find.
    Look(HostIx, ResourceIx),
    /// What was seen before is compared.
    Judge(HostIx, ResourceIx),
    /// Reconcile accepts a job that mends what it found on a host.
    Mend(JobIx, HostIx),
    /// User: accept.
    Accept(JobIx),
    /// User or clock.
    Mark(JobIx, Mark),
    /// Fault: see [`crate::config::Faults`].
    Redeliver(Order),
    /// Fault.
    LoseOrder(Order),
    /// Fault.
    LoseEvent(Event),
    /// Fault.
    Wipe,
    /// Fault.
    PublishTwice(usize),
    /// Fault.
    WorkerCrash(usize),
    /// Fault.
    SchedulerCrash(usize),
    /// Fault.
    AgentCrash(HostIx),
    /// Fault.
    Suspend(usize),
    /// Fault.
    Fail(HostIx, ResourceIx, Failure),
    /// Fault.
    EarlyFloor(HostIx),
    /// Fault.
    Poison(Order),
    /// Operator.
    Abandon(JobIx),
    /// Fault.
    LoseLedger(HostIx),
    /// A copy is made, to which the host may be put back.
    Copy(HostIx),
    /// Fault.
    PutBack(HostIx),
    /// Fault.
    LoseInstance(HostIx, ResourceIx),
    /// Fault.
    Blind(HostIx, ResourceIx),
    /// Fault.
    Stick(HostIx, ResourceIx),
}

impl Config {
    fn job_ixs(&self) -> impl Iterator<Item = JobIx> + use<> {
        0..self.jobs.len() as JobIx
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = (HostIx, ResourceIx)> + use<> {
        let resources = self.resources();
        let hosts = self.hosts;
        (0..hosts).flat_map(move |host| (0..resources).map(move |resource| (host, resource)))
    }

    /// What the protocol does of itself: no user, no fault.
    pub fn own_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let free = state.schedulers.contains(&Scheduler::Free);
        for job in self.job_ixs().filter(|_| free) {
            let hosts = state.postgres.hosts_for(self, job);
            let choice = match self.choice {
                Choice::First => hosts.len().min(1),
                Choice::Any => hosts.len(),
            };
            if !self.would_stick_again(state, job) {
                steps.extend(hosts[..choice].iter().map(|host| Step::Dispatch(job, *host)));
            }
            if state.postgres.is_moot(self, job) {
                steps.push(Step::Moot(job));
            }
            if state.postgres.has_no_steps(self, job) {
                steps.push(Step::DispatchNothing(job));
            }
            if state.postgres.has_nowhere_to_go(self, job) {
                steps.push(Step::GiveUp(job));
            }
            if state.postgres.to_recall(job).is_some() {
                steps.push(Step::Recall(job));
            }
            if self.is_missing(state, job) {
                steps.push(Step::Sweep(job));
            }
        }
        if free {
            steps.extend(state.bus.events.iter().map(|event| Step::Settle(*event)));
        }
        for (ix, scheduler) in state.schedulers.iter().enumerate() {
            match scheduler {
                Scheduler::Free => {}
                Scheduler::Publish(_) | Scheduler::Ack(_) | Scheduler::Commit(_) => {
                    steps.push(Step::Follow(ix));
                }
            }
        }
        if state.workers.contains(&Worker::Idle) {
            let waiting = state.bus.orders.iter().filter(|queued| !queued.delivered);
            steps.extend(waiting.map(|queued| Step::Pull(queued.order)));
        }
        for (ix, worker) in state.workers.iter().enumerate() {
            match *worker {
                Worker::Idle => {}
                Worker::Calls(order, call) => {
                    if self.is_heard(state, order, call) {
                        steps.push(Step::Call(ix));
                    }
                }
                Worker::Publishes(..) | Worker::PublishesLate(..) => steps.push(Step::Report(ix)),
                Worker::Acks(_) => steps.push(Step::Ack(ix)),
            }
        }
        for (host, resource) in self.places() {
            let agent = &state.agents[usize::from(host)];
            if agent.can_advance(resource) {
                steps.push(Step::Advance(host, resource));
            }
            if agent.held[usize::from(resource)].stray.is_some() {
                steps.extend([Step::Land(host, resource), Step::Vanish(host, resource)]);
            }
        }
        steps.extend(
            (0..self.hosts)
                .filter(|host| state.agents[usize::from(*host)].epoch.is_none())
                .map(Step::Watch),
        );
        steps.extend(
            (0..self.resources())
                .filter(|resource| state.postgres.seen_gone(self, *resource, &state.agents))
                .map(Step::Forget),
        );
        self.reconcile_steps(state, steps);
        let hosts = (0..self.hosts).filter(|_| self.prune);
        steps.extend(
            hosts
                .filter(|host| {
                    state.agents[usize::from(*host)].prunes(state.postgres.floor(self, *host, None))
                })
                .map(Step::Floor),
        );
    }

    /// Whether taking a job back is known not to work: it is tried again and again, with nothing new.
    fn would_stick_again(&self, state: &State, job: JobIx) -> bool {
        let row = state.postgres.jobs[usize::from(job)];
        let held = |order: Order| state.agents[usize::from(order.host)].held[usize::from(self.resource(job))];
        row.in_vain && row.order.is_some_and(|order| held(order).stuck)
    }

    fn is_missing(&self, state: &State, job: JobIx) -> bool {
        self.rules.has(Rule::SweepRepublishes)
            && state.postgres.out(job).is_some_and(|order| {
                !state.bus.holds(job, order.fence)
                    && !state
                        .bus
                        .events
                        .iter()
                        .any(|event| event.job == job && event.fence == order.fence)
            })
    }

    /// Whether a call would change anything now.
    fn is_heard(&self, state: &State, order: Order, call: Call) -> bool {
        let mut agent = state.agents[usize::from(order.host)];
        let mut seen = state.seen;
        let answer = agent.call(self, order, call, &mut seen);
        answer != Answer::Waits || agent != state.agents[usize::from(order.host)]
    }

    /// What users, clocks and faults do.
    pub fn other_steps(&self, state: &State, steps: &mut Vec<Step>) {
        self.user_steps(state, steps);
        self.fault_steps(state, steps);
        self.host_faults(state, steps);
    }

    fn user_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for job in self.job_ixs() {
            let asked = self.jobs[usize::from(job)].asked;
            if asked == Asked::AnyTime && state.postgres.acceptable(self, job) {
                steps.push(Step::Accept(job));
            }
            if state.postgres.markable(self, job) {
                if state.faults.cancel > 0 {
                    steps.push(Step::Mark(job, Mark::Cancel));
                }
                if state.faults.deadline > 0 {
                    steps.push(Step::Mark(job, Mark::Deadline));
                }
            }
        }
    }

    fn fault_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let faults = state.faults;
        let bus = &state.bus;
        if faults.redeliver > 0 {
            steps.extend(
                bus.orders
                    .iter()
                    .filter(|q| q.delivered)
                    .map(|q| Step::Redeliver(q.order)),
            );
        }
        if faults.lose > 0 {
            steps.extend(bus.orders.iter().map(|q| Step::LoseOrder(q.order)));
            steps.extend(bus.events.iter().map(|event| Step::LoseEvent(*event)));
        }
        if faults.poison > 0 {
            steps.extend(bus.orders.iter().map(|q| Step::Poison(q.order)));
        }
        if faults.abandon > 0 {
            let given_up = self.job_ixs().filter(|job| state.postgres.abandonable(*job));
            steps.extend(given_up.map(Step::Abandon));
        }
        if faults.wipe > 0 && !(bus.orders.is_empty() && bus.events.is_empty()) {
            steps.push(Step::Wipe);
        }
        for (ix, scheduler) in state.schedulers.iter().enumerate() {
            if faults.scheduler_crash > 0 && *scheduler != Scheduler::Free {
                steps.push(Step::SchedulerCrash(ix));
            }
            if faults.repeat > 0 && matches!(scheduler, Scheduler::Publish(_)) {
                steps.push(Step::PublishTwice(ix));
            }
        }
        for (ix, worker) in state.workers.iter().enumerate() {
            if faults.worker_crash > 0 && *worker != Worker::Idle {
                steps.push(Step::WorkerCrash(ix));
            }
            if faults.suspend > 0 && matches!(worker, Worker::Calls(..)) {
                steps.push(Step::Suspend(ix));
            }
        }
        for (host, resource) in self.places() {
            if state.agents[usize::from(host)].can_fail(self, resource) {
                if faults.refuse > 0 {
                    steps.push(Step::Fail(host, resource, Failure::NoRoom));
                }
                if faults.broken > 0 {
                    steps.push(Step::Fail(host, resource, Failure::Broken));
                }
            }
        }
        for host in 0..self.hosts {
            let agent = &state.agents[usize::from(host)];
            if faults.ledger_loss > 0 && agent.epoch.is_some() {
                steps.push(Step::LoseLedger(host));
            }
            if faults.agent_crash > 0 && agent.held.iter().any(|held| held.run.is_some()) {
                steps.push(Step::AgentCrash(host));
            }
            let too_early = !(self.rules.has(Rule::FloorLocked) && self.rules.has(Rule::StaleDispatchedAnew));
            let early = state.postgres.floor(self, host, Some(state.postgres.sequence));
            if faults.early_floor > 0 && early > agent.floor && too_early {
                steps.push(Step::EarlyFloor(host));
            }
        }
    }
}
