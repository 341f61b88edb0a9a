//! A scheduler's check of hosts against the books, and what reconcile asks for after it: the product's comparison and the product's
//! decision, under the lease of the check.

use crate::books::Origin;
use crate::lock;
use crate::mutant::Mutant;
use crate::scheduler::config;
use crate::sim::{Busy, Died, Hand, Sim};
use chrono::{DateTime, TimeDelta, Utc};
use rhyzome_model::check::{Amiss, Older, amiss, older};
use rhyzome_model::ids::JobId;
use rhyzome_model::step::Step;
use rhyzome_scheduler::SchedulerConfig;
use rhyzome_scheduler::mend::{Accepts, mend_all};
use rhyzome_store::StoreError;
use std::sync::Arc;

/// Who checks and is heard of no more is taken for dead after this, seconds.
const LEASE_S: i64 = 20;

/// The check of one scheduler.
pub(crate) async fn check(sim: Arc<Sim>, name: &'static str) {
    let config = config();
    let interval = TimeDelta::from_std(config.check_interval.duration()).unwrap_or_default();
    loop {
        sim.doze(900, 1_100).await;
        let now = sim.now();
        if !lock(&sim.books).check_take(interval, TimeDelta::seconds(LEASE_S), now) {
            continue;
        }
        let _busy = Busy::new(&sim);
        if look(&sim, name, &config).await == Err(Died) {
            sim.doze(100, 4_000).await;
        }
    }
}

async fn look(sim: &Arc<Sim>, name: &'static str, config: &SchedulerConfig) -> Result<(), Died> {
    let looked = lock(&sim.books).inventories_stored();
    sim.stumble(name, "before it reads the books", Hand::Empty)
        .await?;
    let (found, put_back) = {
        let known = lock(&sim.books).known(&looked);
        (amiss(&looked, &known), older(&looked, &known))
    };
    sim.stumble(name, "after it read the books", Hand::Empty).await?;
    let now = sim.now();
    lock(&sim.books).check_done(now);
    sim.stumble(name, "before it notes what is amiss", Hand::Empty)
        .await?;
    sim.quiet().await;
    let now = sim.now();
    for Older { host, epoch } in &put_back {
        if lock(&sim.books).host_older(host, *epoch, now) {
            sim.say(format_args!(
                "{host} has forgotten what it answered: it was put back, and its epoch is above {}",
                epoch.0
            ));
        }
    }
    let noted = lock(&sim.books).amiss_note(&looked, &found, now);
    sim.audit();
    if sim.is_mutant(Mutant::NothingMended) {
        return Ok(());
    }
    let mends = Mends { sim, name };
    let dies_after_ms = sim.wrong(|o| o.crash).then(|| sim.between(0, 300));
    let death = async {
        match dies_after_ms {
            Some(ms) => sim.clock.sleep(ms).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = death => {
            sim.say(format_args!("{name} dies while it mends"));
            return Err(Died);
        }
        mended = mend_all(&mends, &found, &noted, config) => {
            if let Err(error) = mended {
                sim.broken(format!("1: what is amiss can't be mended: {error}"));
            }
        }
    }
    sim.quiet().await;
    let gone = lock(&sim.books).stand_ins_gone();
    if gone > 0 {
        sim.say(format_args!("{gone} that stood in for something are gone"));
    }
    sim.audit();
    Ok(())
}

struct Mends<'a> {
    sim: &'a Arc<Sim>,
    name: &'static str,
}

impl Mends<'_> {
    /// Its turn in the books: others were there since it looked.
    async fn turn(&self) -> Origin {
        if self.sim.chance(0.5) {
            self.sim.doze(0, 60).await;
        }
        if self.sim.wrong(|o| o.pause) {
            self.sim.doze(500, 12_000).await;
        }
        self.sim.quiet().await;
        let now = self.sim.now();
        Origin {
            now,
            deadline: now + TimeDelta::seconds(60),
            job: JobId(self.sim.id()),
        }
    }
}

impl Accepts for Mends<'_> {
    type Mended = (&'static str, JobId);

    async fn repair(&self, amiss: &Amiss) -> Result<Option<Self::Mended>, StoreError> {
        let origin = self.turn().await;
        let done = lock(&self.sim.books).accept_repair(amiss, origin);
        Ok(done.map(|()| ("repair", origin.job)))
    }

    async fn quarantine(
        &self,
        amiss: &Amiss,
        _until: DateTime<Utc>,
    ) -> Result<Option<Self::Mended>, StoreError> {
        let origin = self.turn().await;
        let done = lock(&self.sim.books).accept_quarantine(amiss, origin);
        Ok(done.map(|()| ("quarantine", origin.job)))
    }

    async fn clearing(&self, amiss: &Amiss, steps: Vec<Step>) -> Result<Option<Self::Mended>, StoreError> {
        let origin = self.turn().await;
        let done = lock(&self.sim.books).accept_clearing(amiss, steps, origin);
        Ok(done.map(|()| ("clearing", origin.job)))
    }

    async fn removal(&self, amiss: &Amiss) -> Result<Option<Self::Mended>, StoreError> {
        let origin = self.turn().await;
        let done = lock(&self.sim.books).accept_removal(amiss, origin);
        Ok(done.map(|()| ("removal", origin.job)))
    }

    async fn tell(&self, amiss: &Amiss, (what, job): Self::Mended) {
        self.sim.say(format_args!(
            "{}: {} of {} {} on {}, by {}",
            self.name,
            what,
            amiss.kind,
            amiss.resource,
            amiss.host,
            crate::rig::short(job)
        ));
        self.sim.due.notify_waiters();
        self.sim.audit();
    }
}
