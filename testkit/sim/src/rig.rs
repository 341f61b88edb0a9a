//! The driver below an agent: the simulated hosts of the product, with delays and faults by the dice, and an eye on every effect.

use crate::host::Host;
use crate::lock;
use crate::mutant::Mutant;
use crate::sim::Sim;
use rhyzome_agent::driver::{
    Capacity, Direction, Driver, Effect, Fut, GuestSeen, Held, Load, Seen, StepContext, StepError,
};
use rhyzome_agent::simulated::faults::FaultError;
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::{Action, ObjectKind};
use std::sync::{Arc, Weak};
use tokio_util::sync::CancellationToken;

/// See the module. One for each life of an agent.
pub(crate) struct Rig {
    /// Weak: the engine that holds it is held by the hosts of the simulation.
    sim: Weak<Sim>,
    host: Weak<Host>,
    name: HostName,
    world: Arc<dyn Driver>,
    dead: CancellationToken,
}

impl Rig {
    pub(crate) fn new(sim: &Arc<Sim>, host: &Arc<Host>, dead: CancellationToken) -> Self {
        Self {
            sim: Arc::downgrade(sim),
            name: host.name.clone(),
            world: host.world(),
            host: Arc::downgrade(host),
            dead,
        }
    }

    /// What a dead process was doing goes no further.
    async fn alive(&self) -> (Arc<Sim>, Arc<Host>) {
        if !self.dead.is_cancelled()
            && let (Some(sim), Some(host)) = (self.sim.upgrade(), self.host.upgrade())
        {
            return (sim, host);
        }
        std::future::pending().await
    }

    async fn make(&self, context: &StepContext, action: &Action) -> Result<Effect, StepError> {
        let (sim, host) = self.alive().await;
        let name = step_name(context.direction, action);
        if sim.wrong(|o| o.agent_crash) {
            host.die(&sim, "before an effect");
            let _ = self.alive().await;
        }
        let slow = if sim.wrong(|o| o.slow) {
            sim.between(100, 8_000)
        } else {
            sim.between(0, 30)
        };
        // Some effects can't be stopped.
        if sim.chance(0.3) {
            sim.clock.sleep(slow).await;
        } else {
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => {
                    return Err(StepError::new(ErrorClass::Unavailable, "STOPPED", "Stopped before its effect."));
                }
                () = sim.clock.sleep(slow) => {}
            }
        }
        let _ = self.alive().await;
        let error = sim.wrong(|o| o.step).then(|| draw_error(&sim));
        if let Some(error) = error.filter(|e| *e != FaultError::Timeout) {
            sim.say(format_args!(
                "{}: {name} of {} fails: {error:?}",
                self.name, context.job
            ));
            let error = error.at(&name);
            return Err(if is_elsewhere(action) {
                error.not_here()
            } else {
                error
            });
        }
        let made = self.effect(&sim, &host, context, action, &name).await;
        if sim.wrong(|o| o.agent_crash) {
            host.die(&sim, "after an effect");
            let _ = self.alive().await;
        }
        if error.is_some() {
            return Err(FaultError::Timeout.at(&name));
        }
        made
    }

    async fn effect(
        &self,
        sim: &Sim,
        host: &Host,
        context: &StepContext,
        action: &Action,
        name: &str,
    ) -> Result<Effect, StepError> {
        if context.direction == Direction::Undo {
            let again = !lock(&host.undone).insert((context.job, context.index));
            if sim.is_mutant(Mutant::NoUndo) || (again && sim.is_mutant(Mutant::ResultsKept)) {
                return Ok(Effect::default());
            }
        }
        let changes = self.world.observe(context, action).await? == Seen::NotSo;
        if changes {
            watch_effect(sim, host, context, action, name);
        }
        let made = self.world.make_so(context, action).await;
        match &made {
            Ok(_) if changes => sim.say(format_args!("{}: {name} for {}", self.name, context.job)),
            Ok(_) => {}
            Err(error) => {
                if error.class == ErrorClass::NoRoom && !host.is_crowded() {
                    sim.broken(format!(
                        "8: {} has no room for {name} of {}, which has it reserved",
                        self.name, context.job
                    ));
                }
                sim.say(format_args!(
                    "{}: {name} of {} can't be made: {error}",
                    self.name, context.job
                ));
            }
        }
        made
    }

    fn enter(&self, context: &StepContext) -> Option<ResourceId> {
        let (sim, host) = (self.sim.upgrade()?, self.host.upgrade()?);
        let resource = lock(&sim.books).jobs.get(&context.job)?.resource;
        let mut inside = lock(&host.inside);
        let (job, count) = inside.entry(resource).or_insert((context.job, 0));
        if *job != context.job {
            let what = format!(
                "5: {} and {job} are at {resource} at once on {}",
                context.job, self.name
            );
            drop(inside);
            sim.broken(what);
            return None;
        }
        *count += 1;
        Some(resource)
    }

    fn leave(&self, resource: ResourceId) {
        let Some(host) = self.host.upgrade().filter(|_| !self.dead.is_cancelled()) else {
            return;
        };
        let mut inside = lock(&host.inside);
        if let Some((_, count)) = inside.get_mut(&resource) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&resource);
            }
        }
    }
}

/// What no effect may do: be of a job that isn't there or has ended, come after a later job of its resource, or take away elsewhere what
/// lives here.
fn watch_effect(sim: &Sim, host: &Host, context: &StepContext, action: &Action, name: &str) {
    let known = {
        let books = lock(&sim.books);
        books.jobs.get(&context.job).map(|job| {
            let lives_here = job.pinned_host.is_some() && books.is_needed(&host.name, action);
            let ended = job.ended_at.filter(|_| !job.given_up).map(|_| job.state);
            (job.resource, job.seq, ended, lives_here)
        })
    };
    let Some((resource, seq, ended, lives_here)) = known else {
        return sim.broken(format!("3: {name} for {}, which is no job", context.job));
    };
    if lives_here {
        sim.broken(format!(
            "7: {name} on {} for {} of {resource}, which lives there",
            host.name, context.job
        ));
    }
    // What it refused before it does again: until that is noticed, nothing can keep it from that.
    if host.is_put_back_unnoticed() {
        return;
    }
    if let Some(state) = ended {
        sim.broken(format!(
            "6: {name} on {} for {}, which is {state} already",
            host.name, context.job
        ));
    }
    let mut last = lock(&host.last);
    let last = last.entry(resource).or_insert(seq);
    if *last > seq {
        sim.broken(format!(
            "5: {name} on {} for {} after a later job of {resource}",
            host.name, context.job
        ));
    }
    *last = (*last).max(seq);
}

fn draw_error(sim: &Sim) -> FaultError {
    if sim.chance(sim.odds().no_room) {
        return FaultError::NoRoom;
    }
    if sim.chance(sim.odds().permanent) {
        return FaultError::Permanent;
    }
    [FaultError::Unavailable, FaultError::Busy, FaultError::Timeout][sim.between(0, 3) as usize]
}

/// An image that its own create fetched elsewhere, as a rule.
fn is_elsewhere(action: &Action) -> bool {
    match action {
        Action::EnsureImage(a) => a.holder != a.image,
        Action::DropImage(_)
        | Action::EnsureNetwork(_)
        | Action::DropNetwork(_)
        | Action::EnsureDisk(_)
        | Action::RemoveDisk(_)
        | Action::EnsureInstance(_)
        | Action::RemoveInstance(_)
        | Action::SetPower(_)
        | Action::Reboot(_) => false,
    }
}

fn step_name(direction: Direction, action: &Action) -> String {
    match direction {
        Direction::Forward => action.name().to_owned(),
        Direction::Undo => format!("undo by {}", action.name()),
    }
}

impl Driver for Rig {
    fn start(&self) -> Fut<'_, Result<(), StepError>> {
        Box::pin(async { Ok(()) })
    }

    fn hosts(&self) -> Vec<HostName> {
        vec![self.name.clone()]
    }

    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            let _ = self.alive().await;
            let entered = self.enter(context);
            let made = self.make(context, action).await;
            if let Some(resource) = entered {
                self.leave(resource);
            }
            made
        })
    }

    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>> {
        Box::pin(async move {
            let _ = self.alive().await;
            self.world.observe(context, action).await
        })
    }

    /// No look at a host is of one moment: what is shared is looked at first, what is owned a little later.
    fn inventory<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>> {
        Box::pin(async move {
            let (sim, _) = self.alive().await;
            let mut held = self.world.inventory(host).await?;
            held.retain(|h| is_shared(h.kind));
            sim.doze(0, 300).await;
            let _ = self.alive().await;
            let owned = self.world.inventory(host).await?;
            held.extend(owned.into_iter().filter(|h| !is_shared(h.kind)));
            Ok(held)
        })
    }

    fn capacity<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>> {
        self.world.capacity(host)
    }

    fn load<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Load, StepError>> {
        self.world.load(host)
    }

    fn guests<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>> {
        self.world.guests(host)
    }

    fn watch_guests(&self) -> tokio::sync::broadcast::Receiver<GuestSeen> {
        self.world.watch_guests()
    }

    fn console_tail<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>> {
        self.world.console_tail(host, instance, lines)
    }
}

/// Kept for names in traces.
pub(crate) fn short(job: JobId) -> String {
    job.to_string().chars().take(8).collect()
}

fn is_shared(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::Network | ObjectKind::Image => true,
        ObjectKind::Disk | ObjectKind::Instance => false,
    }
}
