//! The system as a stateright model: what each step does.
//!
//! Guarantees that a step changes one actor, and the messages or rows that it touches: nothing else is atomic.

use stateright::{Model, Property};

use crate::agent::Answer;
use crate::bus::{Event, Mode, Order, Outcome, Report};
use crate::config::{Action, Config, Grain, HostIx, ResourceIx};
use crate::ledger::Failure;
use crate::postgres::Mark;
use crate::properties;
use crate::rules::Rule;
use crate::scheduler::Scheduler;
use crate::state::{Misdeed, Reached, State};
use crate::steps::Step;
use crate::worker::{self, Call, Worker};

impl Config {
    fn publish(&self, state: &mut State, order: Order) {
        match self.grain {
            Grain::Together => state.bus.publish_order(order),
            Grain::Apart => Self::busy(state, Scheduler::Publish(order)),
        }
    }

    fn busy(state: &mut State, with: Scheduler) {
        if let Some(free) = state.schedulers.iter_mut().find(|s| **s == Scheduler::Free) {
            *free = with;
        }
    }

    fn settle(&self, state: &mut State, event: Event) {
        if !self.rules.has(Rule::EventAckedLast) {
            state.bus.ack_event(event);
            state.seen.note(Misdeed::EventAckedEarly);
            Self::busy(state, Scheduler::Commit(event));
            return;
        }
        state.postgres.settle(self, event, &mut state.seen);
        match self.grain {
            Grain::Together => state.bus.ack_event(event),
            Grain::Apart => Self::busy(state, Scheduler::Ack(event)),
        }
    }

    fn follow(&self, state: &mut State, ix: usize) {
        match std::mem::replace(&mut state.schedulers[ix], Scheduler::Free) {
            Scheduler::Free => {}
            Scheduler::Publish(order) => state.bus.publish_order(order),
            Scheduler::Ack(event) => state.bus.ack_event(event),
            Scheduler::Commit(event) => state.postgres.settle(self, event, &mut state.seen),
        }
    }

    fn call(&self, state: &mut State, ix: usize) {
        let Worker::Calls(order, call) = state.workers[ix] else {
            return;
        };
        if state.postgres.jobs[usize::from(order.job)].status == crate::postgres::Status::Absent {
            state.seen.note(Misdeed::Phantom);
        }
        let answer = state.agents[usize::from(order.host)].call(self, order, call, &mut state.seen);
        if answer == Answer::StepFailed(Failure::NoRoom) && !self.rules.has(Rule::ReleasedFirst) {
            state.bus.publish_event(Event {
                job: order.job,
                fence: order.fence,
                report: Report::NoRoom,
            });
        }
        match worker::answered(order, call, self.action(order.job), answer) {
            None => {}
            Some(Worker::Publishes(order, report)) if !self.rules.has(Rule::OrderAckedLast) => {
                state.bus.ack_order(order);
                state.seen.note(Misdeed::OrderAckedEarly);
                state.workers[ix] = Worker::PublishesLate(order, report);
            }
            Some(next) => state.workers[ix] = next,
        }
    }

    fn report(state: &mut State, ix: usize) {
        match state.workers[ix] {
            Worker::Publishes(order, report) => {
                state.bus.publish_event(Event {
                    job: order.job,
                    fence: order.fence,
                    report,
                });
                // A pause before the ack shows only where the order can come again.
                let apart = state.faults.redeliver + state.faults.worker_crash > 0;
                state.workers[ix] = if apart {
                    Worker::Acks(order)
                } else {
                    state.bus.ack_order(order);
                    Worker::Idle
                };
            }
            Worker::PublishesLate(order, report) => {
                state.bus.publish_event(Event {
                    job: order.job,
                    fence: order.fence,
                    report,
                });
                state.workers[ix] = Worker::Idle;
            }
            Worker::Idle | Worker::Calls(..) | Worker::Acks(_) => {}
        }
    }

    /// What a worker does with an order that it just got.
    fn begin(order: Order) -> Worker {
        match order.mode {
            Mode::Forward => Worker::Calls(order, Call::Forward),
            Mode::Undo => Worker::Calls(order, Call::Undo(Outcome::Cancelled)),
        }
    }

    /// A worker is gone; its order's ack wait runs out.
    fn drop_worker(state: &mut State, ix: usize) {
        let order = match std::mem::replace(&mut state.workers[ix], Worker::Idle) {
            Worker::Idle => return,
            Worker::Calls(order, _)
            | Worker::Publishes(order, _)
            | Worker::Acks(order)
            | Worker::PublishesLate(order, _) => order,
        };
        state.bus.set_delivered(order, false);
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Dispatch(job, host) => {
                let order = state.postgres.dispatch(self, job, host);
                self.publish(state, order);
            }
            Step::DispatchNothing(job) => state.postgres.dispatch_nothing(self, job, &mut state.seen),
            Step::GiveUp(job) => state.postgres.give_up(self, job, &mut state.seen),
            Step::Recall(job) => {
                if let Some(order) = state.postgres.to_recall(job) {
                    let order = state.postgres.recall(self, job, order.host);
                    self.publish(state, order);
                }
            }
            Step::Sweep(job) => {
                if let Some(order) = state.postgres.out(job) {
                    self.publish(state, order);
                }
            }
            Step::Settle(event) => self.settle(state, event),
            Step::Follow(ix) => self.follow(state, ix),
            Step::Pull(order) => {
                state.bus.set_delivered(order, true);
                if let Some(idle) = state.workers.iter_mut().find(|w| **w == Worker::Idle) {
                    *idle = Self::begin(order);
                }
            }
            Step::Call(ix) => self.call(state, ix),
            Step::Report(ix) => Self::report(state, ix),
            Step::Ack(ix) => {
                if let Worker::Acks(order) = state.workers[ix] {
                    state.bus.ack_order(order);
                    state.workers[ix] = Worker::Idle;
                }
            }
            Step::Advance(host, resource) => {
                self.advance(state, host, resource);
            }
            Step::Land(host, resource) => state.agents[usize::from(host)].land(self, resource),
            Step::Vanish(host, resource) => state.agents[usize::from(host)].vanish(resource),
            Step::Floor(host) => {
                let floor = state.postgres.floor(self, host, None);
                state.agents[usize::from(host)].raise_floor(floor);
            }
            Step::Watch(host) => {
                let agent = &mut state.agents[usize::from(host)];
                agent.epoch = Some(state.postgres.greet(self, host, agent, &mut state.seen));
                agent.lost = false;
            }
            Step::Forget(resource) => state.postgres.forget(resource),
            Step::Moot(job) => {
                state.seen.reach(Reached::UndoAbandoned);
                state.postgres.abandon(self, job, &mut state.seen);
            }
            Step::Look(host, resource) => self.look(state, host, resource, false),
            Step::Judge(host, resource) => self.judge_late(state, host, resource),
            Step::Mend(job, host) => self.mend(state, job, host),
            Step::Accept(job) => state.postgres.accept(self, job, &mut state.seen),
            Step::Mark(job, mark) => {
                match mark {
                    Mark::Cancel => state.faults.cancel -= 1,
                    Mark::Deadline => state.faults.deadline -= 1,
                    Mark::Poison => {}
                }
                state.postgres.mark(self, job, mark, &mut state.seen);
            }
            Step::Redeliver(_)
            | Step::LoseOrder(_)
            | Step::LoseEvent(_)
            | Step::Wipe
            | Step::PublishTwice(_)
            | Step::WorkerCrash(_)
            | Step::SchedulerCrash(_)
            | Step::AgentCrash(_)
            | Step::Suspend(_)
            | Step::Fail(..)
            | Step::EarlyFloor(_)
            | Step::Poison(_)
            | Step::Abandon(_)
            | Step::LoseLedger(_)
            | Step::Copy(_)
            | Step::PutBack(_)
            | Step::LoseInstance(..)
            | Step::Blind(..)
            | Step::Stick(..) => self.suffer(state, step),
        }
    }

    fn advance(&self, state: &mut State, host: HostIx, resource: ResourceIx) {
        let agent = &mut state.agents[usize::from(host)];
        let before = agent.held[usize::from(resource)];
        // Between an effect and its record it may die, or be asked to take the effect back.
        let apart = state.faults.agent_crash + state.faults.stuck > 0;
        agent.advance(self, resource, apart, &mut state.seen);
        let after = agent.held[usize::from(resource)];
        let Some(action) = before.run.map(|run| self.action(run.job)) else {
            return;
        };
        if action == Action::Clear && (before.instance && !after.instance || before.claim && !after.claim) {
            state.seen.reach(Reached::StrayRemoved);
            if state.postgres.resources[usize::from(resource)].reservation == Some(host) {
                state.seen.note(Misdeed::RemovedAtHome);
            }
        }
        if action == Action::Repair && !before.instance && after.instance {
            state.seen.reach(Reached::MadeAgain);
        }
    }

    fn suffer(&self, state: &mut State, fault: Step) {
        let faults = &mut state.faults;
        match fault {
            Step::Redeliver(order) => {
                faults.redeliver -= 1;
                state.bus.set_delivered(order, false);
            }
            Step::LoseOrder(order) => {
                faults.lose -= 1;
                state.bus.ack_order(order);
            }
            Step::LoseEvent(event) => {
                faults.lose -= 1;
                state.bus.ack_event(event);
            }
            Step::Wipe => {
                faults.wipe -= 1;
                state.bus.wipe();
            }
            Step::PublishTwice(ix) => {
                faults.repeat -= 1;
                if let Scheduler::Publish(order) = state.schedulers[ix] {
                    state.bus.publish_order(order);
                }
            }
            Step::WorkerCrash(ix) => {
                faults.worker_crash -= 1;
                Self::drop_worker(state, ix);
            }
            Step::SchedulerCrash(ix) => {
                faults.scheduler_crash -= 1;
                state.schedulers[ix] = Scheduler::Free;
            }
            Step::AgentCrash(host) => {
                faults.agent_crash -= 1;
                state.agents[usize::from(host)].crash(self);
            }
            Step::Suspend(ix) => {
                faults.suspend -= 1;
                if let Worker::Calls(order, _) = state.workers[ix] {
                    state.workers[ix] = Worker::Publishes(order, Report::Suspended);
                }
            }
            Step::Fail(host, resource, failure) => {
                match failure {
                    Failure::NoRoom => faults.refuse -= 1,
                    Failure::Broken => faults.broken -= 1,
                }
                state.agents[usize::from(host)].fail(resource, failure);
            }
            Step::EarlyFloor(host) => {
                faults.early_floor -= 1;
                let floor = state.postgres.floor(self, host, Some(state.postgres.sequence));
                state.agents[usize::from(host)].raise_floor(floor);
            }
            Step::Poison(order) => {
                faults.poison -= 1;
                state.bus.ack_order(order);
                state.postgres.poison(self, order, &mut state.seen);
            }
            Step::Abandon(job) => {
                faults.abandon -= 1;
                state.postgres.abandon(self, job, &mut state.seen);
            }
            Step::LoseLedger(host) => {
                faults.ledger_loss -= 1;
                state.agents[usize::from(host)].lose_ledger(self);
            }
            Step::Copy(host) => {
                state.copies[usize::from(host)] = Some(state.agents[usize::from(host)].copy());
            }
            Step::PutBack(host) => {
                faults.put_back -= 1;
                let copy = state.copies[usize::from(host)].unwrap_or_default();
                state.agents[usize::from(host)].put_back(copy);
                if faults.put_back == 0 {
                    state.copies = Default::default();
                }
            }
            Step::LoseInstance(host, resource) => {
                faults.vanish -= 1;
                state.agents[usize::from(host)].lose_instance(resource);
            }
            Step::Blind(host, resource) => {
                faults.blind -= 1;
                self.look(state, host, resource, true);
            }
            Step::Stick(host, resource) => {
                faults.stuck -= 1;
                let agent = &mut state.agents[usize::from(host)];
                agent.held[usize::from(resource)].stuck = true;
            }
            Step::Dispatch(..)
            | Step::DispatchNothing(_)
            | Step::GiveUp(_)
            | Step::Recall(_)
            | Step::Sweep(_)
            | Step::Settle(_)
            | Step::Follow(_)
            | Step::Pull(_)
            | Step::Call(_)
            | Step::Report(_)
            | Step::Ack(_)
            | Step::Advance(..)
            | Step::Land(..)
            | Step::Vanish(..)
            | Step::Floor(_)
            | Step::Watch(_)
            | Step::Forget(_)
            | Step::Moot(_)
            | Step::Look(..)
            | Step::Judge(..)
            | Step::Mend(..)
            | Step::Accept(_)
            | Step::Mark(..) => {}
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        self.own_steps(state, actions);
        self.other_steps(state, actions);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step);
        Some(state.canonical())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
