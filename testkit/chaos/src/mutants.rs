//! The suite is tested: with a rule taken away, the scenario that is about it must find something broken.

use std::time::Duration;

use anyhow::{Result, bail};
use rhyzome_runtime::fault::Mutant;

use crate::run::{Keep, Run};
use crate::scenarios::Scenario;

/// The shortest scenario that notices.
fn noticed_by(mutant: Mutant) -> Scenario {
    match mutant {
        Mutant::NoFenceCheck => Scenario::LateWorker,
        Mutant::EventAckedFirst => Scenario::SettleCrash,
        Mutant::NoUndo => Scenario::Permanent,
        Mutant::ReservationFreedEarly => Scenario::Suspended,
        Mutant::ResultsKept => Scenario::RefusedTwice,
        Mutant::SweepSleeps => Scenario::Unpublished,
    }
}

/// These mutants; an error names those that went unnoticed.
pub(crate) async fn each(mutants: &[Mutant], seed: u64) -> Result<()> {
    let mut unnoticed = Vec::new();
    for mutant in mutants.iter().copied() {
        let scenario = noticed_by(mutant);
        println!("\n== {} in {}", mutant.as_str(), scenario.as_str());
        let mut run = Run::start(seed, Some(mutant)).await?;
        let played = run.scenario(scenario, Duration::from_secs(10)).await;
        let journal = std::sync::Arc::clone(&run.journal);
        let ended = run.end(played, Keep::Never, None).await;
        match (ended, journal.all_broken().first()) {
            (Err(_), Some(broken)) => println!("{}: noticed: {broken}", mutant.as_str()),
            (Err(error), None) => bail!(
                "{}: the run failed for another reason: {error:#}",
                mutant.as_str()
            ),
            (Ok(()), _) => unnoticed.push(mutant.as_str()),
        }
    }
    if !unnoticed.is_empty() {
        bail!("mutants that nobody noticed: {}", unnoticed.join(", "));
    }
    println!("each was noticed");
    Ok(())
}
