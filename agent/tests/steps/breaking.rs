//! A host whose steps fail at a test's word: before the effect, or after it and unheard.

use crate::real_support::Host;
use rhyzome_agent::driver::{
    Capacity, Direction, Driver, Effect, Fut, GuestSeen, Held, Load, Seen, StepContext, StepError,
};
use rhyzome_agent::simulated::SimulatedDriver;
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_model::job::ErrorClass;
use rhyzome_model::step::Action;
use std::sync::Mutex;
use tokio::sync::broadcast;

/// What makes effects.
pub enum Ground {
    /// Lives as long as its folder.
    Simulated(SimulatedDriver, #[allow(dead_code)] tempfile::TempDir),
    /// QEMU, bridges, files.
    Real(Host),
}

impl Ground {
    pub fn driver(&self) -> &dyn Driver {
        match self {
            Self::Simulated(driver, _) => driver,
            Self::Real(host) => host.driver(),
        }
    }
}

/// Where in a step it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// One failure to come: of which step, which way.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub index: usize,
    pub direction: Direction,
    pub side: Side,
    pub class: ErrorClass,
}

pub struct Breaking {
    pub ground: Ground,
    fault: Mutex<Option<Fault>>,
    /// A driver as it must not be: says that it did what it didn't.
    idle: Mutex<Option<Direction>>,
    /// How many effects were asked for.
    calls: Mutex<usize>,
}

impl Breaking {
    pub fn new(ground: Ground) -> Self {
        Self {
            ground,
            fault: Mutex::default(),
            idle: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    pub fn do_nothing(&self, direction: Direction) {
        *self.idle.lock().unwrap() = Some(direction);
    }

    /// Whether the failure that was asked for has come.
    pub fn has_failed(&self) -> bool {
        self.fault.lock().unwrap().is_none()
    }

    pub fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }

    fn due(&self, context: &StepContext) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        fault.take_if(|f| f.index == context.index as usize && f.direction == context.direction)
    }
}

impl Driver for Breaking {
    fn start(&self) -> Fut<'_, Result<(), StepError>> {
        self.ground.driver().start()
    }
    fn hosts(&self) -> Vec<HostName> {
        self.ground.driver().hosts()
    }
    fn make_so<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Effect, StepError>> {
        Box::pin(async move {
            *self.calls.lock().unwrap() += 1;
            if *self.idle.lock().unwrap() == Some(context.direction) {
                return Ok(Effect::default());
            }
            let fault = self.due(context);
            let failed = |f: Fault| StepError::new(f.class, "TEST", "The test's own.");
            match fault {
                Some(fault) if fault.side == Side::Before => Err(failed(fault)),
                Some(fault) => {
                    self.ground.driver().make_so(context, action).await?;
                    Err(failed(fault))
                }
                None => self.ground.driver().make_so(context, action).await,
            }
        })
    }
    fn observe<'a>(
        &'a self,
        context: &'a StepContext,
        action: &'a Action,
    ) -> Fut<'a, Result<Seen, StepError>> {
        self.ground.driver().observe(context, action)
    }
    fn inventory<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<Held>, StepError>> {
        self.ground.driver().inventory(host)
    }
    fn capacity<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Capacity, StepError>> {
        self.ground.driver().capacity(host)
    }
    fn load<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Load, StepError>> {
        self.ground.driver().load(host)
    }
    fn guests<'a>(&'a self, host: &'a HostName) -> Fut<'a, Result<Vec<GuestSeen>, StepError>> {
        self.ground.driver().guests(host)
    }
    fn watch_guests(&self) -> broadcast::Receiver<GuestSeen> {
        self.ground.driver().watch_guests()
    }
    fn console_tail<'a>(
        &'a self,
        host: &'a HostName,
        instance: ResourceId,
        lines: usize,
    ) -> Fut<'a, Result<Option<Vec<u8>>, StepError>> {
        self.ground.driver().console_tail(host, instance, lines)
    }
}
