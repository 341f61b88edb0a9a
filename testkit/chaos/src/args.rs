//! The command line.

use std::path::PathBuf;

use clap::Parser;
use rhyzome_runtime::fault::Mutant;

use crate::scenarios::Scenario;

/// Breaks a whole stack in every way that the job protocol names, and checks its invariants.
///
/// The programs that it needs are named by the environment, as `cargo xtask chaos` does.
#[derive(Debug, Parser)]
#[command(name = "rhyzome-chaos", version)]
pub(crate) struct Args {
    /// What the dice of load and faults begin with; drawn and printed where left out
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long scenarios break things, all together; they are begun again while there is time
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Only this scenario; can be given again
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Vec<Scenario>,
    /// Also keep what the run came to here, as JSON, whatever came of it
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Take a rule away, one after the other, and see that each time something is found broken
    #[arg(long)]
    pub(crate) mutants: bool,
    /// Only this rule is taken away; can be given again
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    pub(crate) mutant: Vec<Mutant>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::parse(name).ok_or_else(|| {
        let all = Mutant::ALL.map(Mutant::as_str).join(", ");
        format!("no mutant; there are {all}")
    })
}
