//! `cargo xtask prepush`: exactly what CI checks, cheap checks first.
//!
//! The two programs that check the supply chain are built once, at a pinned version, into the cache.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::show::{Progress, say};
use crate::test::TestArgs;
use crate::{paths, run, sqlx, test, tools};

/// Options of `prepush`.
#[derive(Debug, Args)]
pub(crate) struct PrepushArgs {
    /// Run this check only.
    #[arg(long, value_enum)]
    only: Option<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Check {
    /// The sources are formatted.
    Format,
    /// Licences, banned crates and sources of the dependencies (cargo-deny).
    Deny,
    /// No dependency is named that is not used (cargo-machete).
    Unused,
    /// No warning of clippy, in tests too.
    Clippy,
    /// The committed query data are current.
    Sqlx,
    /// Every test.
    Test,
}

const CHECKS: &[Check] = &[
    Check::Format,
    Check::Deny,
    Check::Unused,
    Check::Clippy,
    Check::Sqlx,
    Check::Test,
];

/// A cargo program that is built from crates.io.
struct CargoTool {
    name: &'static str,
    version: &'static str,
}

const DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
};
const MACHETE: CargoTool = CargoTool {
    name: "cargo-machete",
    version: "0.9.2",
};

/// Where cargo-deny gets known vulnerabilities from.
const ADVISORIES: &str = "https://github.com/rustsec/advisory-db";

/// `cargo xtask prepush`.
pub(crate) fn command(args: &PrepushArgs) -> Result<()> {
    let chosen = match args.only {
        Some(check) => vec![check],
        None => CHECKS.to_vec(),
    };
    for check in chosen {
        say(format!("== {}", check.title()));
        check
            .run()
            .with_context(|| format!("the check \"{}\" failed", check.title()))?;
    }
    say("All checks passed.");
    Ok(())
}

impl Check {
    fn title(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Deny => "supply chain",
            Self::Unused => "unused dependencies",
            Self::Clippy => "clippy",
            Self::Sqlx => "query data",
            Self::Test => "tests",
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Format => run::loud(paths::cargo()?.args(["fmt", "--all", "--check"])),
            Self::Deny => deny(),
            Self::Unused => {
                // It ends with 1 where it finds something, and says what.
                let machete = MACHETE.ensure()?;
                run::loud(
                    run::program(machete)
                        .arg("--with-metadata")
                        .current_dir(paths::workspace()?),
                )
            }
            Self::Clippy => {
                let lint = [
                    "clippy",
                    "--locked",
                    "--workspace",
                    "--all-targets",
                    "--",
                    "-D",
                    "warnings",
                ];
                run::loud(paths::cargo()?.args(lint))
            }
            Self::Sqlx => sqlx::check(),
            Self::Test => test::command(&TestArgs::default()),
        }
    }
}

fn deny() -> Result<()> {
    let deny = DENY.ensure()?;
    let mut checks = vec!["bans", "licenses", "sources"];
    if run::output(run::program("git").args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"])).is_ok() {
        checks.push("advisories");
    } else {
        say(format!(
            "{ADVISORIES} is not reachable from here: known vulnerabilities are not checked"
        ));
    }
    run::loud(
        run::program(deny)
            .args([
                "--locked",
                "--workspace",
                "--all-features",
                "check",
                "--hide-inclusion-graph",
            ])
            .args(checks)
            .current_dir(paths::workspace()?),
    )
}

impl CargoTool {
    /// Where the program is at the pinned version; builds it if need be.
    fn ensure(&self) -> Result<PathBuf> {
        tools::ensure()?;
        if let Some(path) = run::find(self.name)
            && run::output(run::program(&path).arg("--version")).is_ok_and(|said| said.contains(self.version))
        {
            return Ok(path);
        }
        let root = paths::cache_folder(&format!("tools/{}-{}", self.name, self.version))?;
        let path = root.join("bin").join(self.name);
        if path.is_file() {
            return Ok(path);
        }
        let progress = Progress::start(format!("building {} {} (once)", self.name, self.version));
        // A debug build takes a third of the time, and each program runs for seconds.
        run::moving(
            paths::cargo()?
                .args([
                    "install",
                    "--debug",
                    "--locked",
                    "--version",
                    self.version,
                    self.name,
                    "--root",
                ])
                .arg(&root)
                .env_remove("CARGO_TARGET_DIR"),
            &progress,
        )?;
        if !path.is_file() {
            bail!("cargo built {}, but {} is not there", self.name, path.display());
        }
        progress.done("done");
        Ok(path)
    }
}
