//! Instances of a host: their definitions, and what is done to them.
//!
//! A definition is a record that only the agent reads (it holds the user data), with the seed beside it; a change of it counts from
//! the guest's next start. Removing takes the guest, its taps and its folder, and what is already gone is no error.

use super::files::{self, Layout, storage};
use super::guests::{Guests, Stop};
use super::names::short_hash;
use super::netns;
use super::network::Networking;
use super::qemu::{CONSOLE_LOG, SEED};
use super::run_state::{RebootMark, RunState};
use super::seed;
use super::spawn::Identity;
use super::watching::FIRST_PAUSE;
use crate::driver::{Effect, GuestSeen, Held, Seen, SeenPower, StepContext, StepError};
use chrono::Utc;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::Power;
use rhyzome_model::step::{EnsureInstance, ObjectKind, Reboot, SetPower};
use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn definition_record(layout: &Layout, id: ResourceId) -> PathBuf {
    layout.instance(id).join("definition.json")
}

/// Where an instance's [`RunState`] lies.
pub(crate) fn run_record(layout: &Layout, id: ResourceId) -> PathBuf {
    layout.instance(id).join("run.json")
}

/// What an instance shall be, if it is here.
pub(crate) fn definition(layout: &Layout, id: ResourceId) -> Result<Option<EnsureInstance>, StepError> {
    files::read_or_lost(&definition_record(layout, id))
}

fn seed_file(layout: &Layout, id: ResourceId) -> PathBuf {
    layout.instance(id).join(SEED)
}

/// What cloud-init finds, anew.
fn write_seed(
    layout: &Layout,
    definition: &EnsureInstance,
    identity: Option<Identity>,
) -> Result<(), StepError> {
    let seed = seed_file(layout, definition.instance);
    let image = seed::build(definition).map_err(|e| storage("making a seed", &seed, &e))?;
    files::write_atomic(&seed, &image, 0o400)?;
    files::give(&seed, identity)
}

/// The same, where it is lost; else it is the guest's again.
pub(crate) fn ensure_seed(
    layout: &Layout,
    definition: &EnsureInstance,
    identity: Option<Identity>,
) -> Result<(), StepError> {
    let seed = seed_file(layout, definition.instance);
    if seed.is_file() {
        files::give(&seed, identity)
    } else {
        write_seed(layout, definition, identity)
    }
}

/// The guest's process may write into this file and not make it: the folder is the agent's.
pub(crate) fn ensure_console_log(
    layout: &Layout,
    id: ResourceId,
    identity: Option<Identity>,
) -> Result<(), StepError> {
    let log = layout.instance(id).join(CONSOLE_LOG);
    OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&log)
        .and_then(|f| f.set_permissions(Permissions::from_mode(0o600)))
        .map_err(|e| storage("making a console's log", &log, &e))?;
    files::give(&log, identity)
}

/// The tap of an instance's card; 14 characters of the 15 that Linux takes.
pub(crate) fn tap_name(owner: &str, instance: ResourceId, position: usize) -> String {
    format!("{}{position}", tap_prefix(owner, instance))
}

/// What all taps of an instance begin with, and no other's.
pub(crate) fn tap_prefix(owner: &str, instance: ResourceId) -> String {
    format!("t{}n", &short_hash(owner, instance)[..10])
}

/// Whether it may be the name of a tap of ours.
pub(crate) fn is_tap_name(name: &str) -> bool {
    let parts = name.strip_prefix('t').and_then(|rest| rest.split_once('n'));
    parts.is_some_and(|(hash, position)| {
        hash.len() == 10 && hash.bytes().all(|b| b.is_ascii_hexdigit()) && position.parse::<usize>().is_ok()
    })
}

/// What stopping found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopOutcome {
    /// It ran.
    Stopped,
    /// It didn't.
    WasOff,
}

/// All instances of a host.
pub(crate) struct Instances {
    guests: Arc<Guests>,
}

fn said(detail: &str) -> Effect {
    Effect {
        detail: detail.to_owned(),
        ..Effect::default()
    }
}

impl Instances {
    pub(crate) fn new(guests: Arc<Guests>) -> Self {
        Self { guests }
    }

    fn layout(&self) -> &Layout {
        &self.guests.layout
    }

    fn get(&self, id: ResourceId) -> Result<Option<EnsureInstance>, StepError> {
        definition(self.layout(), id)
    }

    fn is_seeded(&self, id: ResourceId) -> bool {
        seed_file(self.layout(), id).is_file()
    }

    pub(crate) async fn ensure(&self, action: &EnsureInstance) -> Result<Effect, StepError> {
        let id = action.instance;
        let before = self.get(id)?;
        let folder = self.layout().instance(id);
        let identity = self.guests.users.of(id)?;
        let run_folder = folder.join("run");
        files::make_folder(&run_folder)?;
        files::make_folder(&folder)?;
        files::give(&run_folder, identity)?;
        let private = std::fs::set_permissions(&run_folder, Permissions::from_mode(0o700));
        private.map_err(|e| storage("making a guest's folder", &run_folder, &e))?;
        files::write_record(&definition_record(self.layout(), id), action)?;
        if self.guests.recorded_run(id)?.is_none() {
            self.guests.write_run_state(id, &RunState::default())?;
        }
        write_seed(self.layout(), action, identity)?;
        ensure_console_log(self.layout(), id, identity)?;
        if let Some(before) = before.as_ref().filter(|b| b.interfaces != action.interfaces) {
            self.drop_old_taps(before, action).await?;
        }
        let runs = self.guests.run_state(id)?.alive().is_some();
        Ok(match before {
            Some(before) if runs && before != *action => {
                said("defined; what changed counts from its next start")
            }
            Some(_) | None => said("defined"),
        })
    }

    /// A card that went, or went to another network, is cut off at once.
    async fn drop_old_taps(&self, before: &EnsureInstance, now: &EnsureInstance) -> Result<(), StepError> {
        if self.guests.networking == Networking::User {
            return Ok(());
        }
        for (i, nic) in before.interfaces.iter().enumerate() {
            if now
                .interfaces
                .get(i)
                .is_none_or(|n| n.network != nic.network || n.mac != nic.mac)
            {
                let tap = tap_name(&self.guests.owner, before.instance, i);
                netns::remove_tap(&self.guests.networks.names(nic.network), &tap).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn observe(&self, action: &EnsureInstance) -> Result<Seen, StepError> {
        let so = self.is_seeded(action.instance) && self.get(action.instance)?.as_ref() == Some(action);
        Ok(if so { Seen::StillSo } else { Seen::NotSo })
    }

    pub(crate) async fn remove(&self, id: ResourceId, context: &StepContext) -> Result<Effect, StepError> {
        if let Some(definition) = self.get(id)? {
            let mut run = self.guests.run_state(id)?;
            run.wanted = Power::Off;
            self.guests.write_run_state(id, &run)?;
            self.guests.stop(id, Stop::Hard, &context.cancel).await?;
            self.guests.remove_taps(&definition).await?;
        } else {
            self.guests.end_all(id).await?;
        }
        files::remove_folder(&self.layout().instance(id))?;
        self.guests.users.let_go(id)?;
        Ok(said("the guest is off and gone"))
    }

    pub(crate) fn is_gone(&self, id: ResourceId) -> Result<bool, StepError> {
        Ok(!self.layout().instance(id).exists() && !self.guests.runs_anywhere(id)?)
    }

    pub(crate) async fn set_power(
        &self,
        action: &SetPower,
        context: &StepContext,
    ) -> Result<Effect, StepError> {
        let id = action.instance;
        let Some(definition) = self.get(id)? else {
            return if action.power == Power::Off {
                self.guests.end_all(id).await?;
                Ok(said("the guest is off"))
            } else {
                Err(StepError::not_defined())
            };
        };
        let mut run = self.guests.run_state(id)?;
        run.wanted = action.power;
        run.restarts = 0;
        self.guests.write_run_state(id, &run)?;
        match action.power {
            Power::On if self.guests.start(id).await? => {
                Ok(said(&format!("started, by {}", self.guests.accelerator.as_str())))
            }
            Power::On => Ok(said("runs")),
            Power::Off => {
                let within = Duration::from_secs(u64::from(definition.stop_timeout_s));
                self.guests
                    .stop(id, Stop::InOrder(within), &context.cancel)
                    .await?;
                Ok(said("the guest is off"))
            }
        }
    }

    pub(crate) fn observe_power(&self, action: &SetPower) -> Result<Seen, StepError> {
        let run = self.guests.run_state(action.instance)?;
        let runs = run.alive().is_some() || self.guests.runs_anywhere(action.instance)?;
        let so = run.wanted == action.power && runs == (action.power == Power::On);
        Ok(if so { Seen::StillSo } else { Seen::NotSo })
    }

    /// Off in order and on again, once for a job: a process that isn't the marked one any more shows that the first half was done.
    pub(crate) async fn reboot(&self, action: &Reboot, context: &StepContext) -> Result<Effect, StepError> {
        let id = action.instance;
        let definition = self.get(id)?.ok_or_else(StepError::not_defined)?;
        let mut run = self.guests.run_state(id)?;
        if run.wanted == Power::Off {
            return Err(StepError::new(
                ErrorClass::Permanent,
                "NOT_RUNNING",
                "the instance is off: start it instead",
            ));
        }
        let mark = match run.reboot.take().filter(|m| m.job == context.job) {
            Some(mark) if mark.done => return Ok(said("it was rebooted")),
            Some(mark) => mark,
            None => RebootMark {
                job: context.job,
                from: run.process.clone(),
                done: false,
            },
        };
        let same = run.process == mark.from;
        if same {
            // What runs has open what was lost, and goes on until it is ended.
            self.guests.disks.bootable(id)?;
        }
        run.reboot = Some(mark.clone());
        self.guests.write_run_state(id, &run)?;
        let again = async {
            if same {
                let within = Duration::from_secs(u64::from(definition.stop_timeout_s));
                self.guests
                    .stop(id, Stop::InOrder(within), &context.cancel)
                    .await?;
            }
            self.guests.start(id).await
        };
        if let Err(error) = again.await {
            // Nothing undoes a reboot: its job may end before this works, and the guest should run all the same.
            self.guests.start_later(id, FIRST_PAUSE);
            return Err(error);
        }
        let run = self.guests.run_state(id)?;
        let done = RunState {
            reboot: Some(RebootMark { done: true, ..mark }),
            ..run
        };
        self.guests.write_run_state(id, &done)?;
        Ok(said("rebooted"))
    }

    pub(crate) fn observe_reboot(&self, action: &Reboot, context: &StepContext) -> Result<Seen, StepError> {
        let mark = self.guests.run_state(action.instance)?.reboot;
        let so = mark.is_some_and(|m| m.job == context.job && m.done);
        Ok(if so { Seen::StillSo } else { Seen::NotSo })
    }

    /// Ends a guest in order though it shall run: it is started again when an agent comes back.
    pub(crate) async fn stop_keeping_intent(&self, id: ResourceId) -> Result<StopOutcome, StepError> {
        let alive = self.guests.run_state(id)?.alive().is_some();
        let Some(definition) = self.get(id)?.filter(|_| alive) else {
            // What ended while nobody looked left its group, at least.
            let runs = self.guests.runs_anywhere(id)?;
            self.guests.end_all(id).await?;
            return Ok(if runs {
                StopOutcome::Stopped
            } else {
                StopOutcome::WasOff
            });
        };
        let within = Duration::from_secs(u64::from(definition.stop_timeout_s));
        self.guests
            .stop(id, Stop::InOrder(within), &CancellationToken::new())
            .await?;
        Ok(StopOutcome::Stopped)
    }

    /// The guests of this host as seen now.
    pub(crate) fn look(&self) -> Result<Vec<GuestSeen>, StepError> {
        let mut all = Vec::new();
        for id in files::ids_in(&self.layout().instances(), "")? {
            if self.get(id)?.is_some() {
                let at = Utc::now();
                all.push(self.guests.look(id, &self.guests.run_state(id)?, at));
            }
        }
        Ok(all)
    }

    pub(crate) fn inventory(&self) -> Result<Vec<Held>, StepError> {
        let mut all = Vec::new();
        let mut running = self.guests.running()?;
        for id in files::ids_in(&self.layout().instances(), "")? {
            let runs = running.remove(&id).is_some();
            // A folder without a definition was begun or is going: it is listed, so that it is found.
            let definition = self.get(id)?;
            let recorded = self.guests.recorded_run(id)?;
            // Without its seed, or not knowing whether it shall run, it is as good as not defined.
            let whole = self.is_seeded(id) && recorded.is_some();
            let run = recorded.unwrap_or_default();
            let state = match (run.power(), &definition) {
                (_, _) if runs => "running",
                (_, None) | (SeenPower::Unknown, _) => "unknown",
                (SeenPower::On, Some(_)) => "running",
                (SeenPower::Off, Some(_)) => "stopped",
                (SeenPower::Crashed, Some(_)) => "crashed",
            };
            let mut facts = BTreeMap::new();
            if let Some(process) = run.alive() {
                facts.insert("pid".to_owned(), process.pid.to_string());
                facts.insert(
                    "accelerator".to_owned(),
                    self.guests.accelerator.as_str().to_owned(),
                );
            }
            if let Some(why) = run.last_crash() {
                facts.insert("last_end".to_owned(), why);
            }
            all.push(Held {
                kind: ObjectKind::Instance,
                id,
                state: state.to_owned(),
                claims: Vec::new(),
                generation: definition.filter(|_| whole).map_or(0, |d| d.generation),
                facts,
            });
        }
        // Without a folder.
        all.extend(running.into_keys().map(|id| Held {
            kind: ObjectKind::Instance,
            id,
            state: "running".to_owned(),
            claims: Vec::new(),
            generation: 0,
            facts: BTreeMap::new(),
        }));
        Ok(all)
    }
}
