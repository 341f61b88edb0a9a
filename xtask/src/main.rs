//! The workspace's tasks, `cargo xtask …`: what a person or CI runs around the one binary `rhyzome`.
//!
//! It is what a fresh machine compiles first, so it depends on few crates and on none of ours. Downloads and REST
//! calls go through `curl`. A tool that is missing is installed, or named with the command that gets it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod chaos;
mod demo;
mod fetch;
mod image;
mod paths;
mod prepush;
mod private_postgres;
mod rest;
mod run;
mod show;
mod sim;
mod sqlx;
mod stack;
mod test;
mod tools;

/// The workspace's tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Get everything that the stack and the tests need, and say where it is.
    Tools,
    /// Build the guest image `tiny`, where its inputs have changed, and print its path and SHA-256.
    Image,
    /// Run the whole stack on this machine until Ctrl-C.
    Up(stack::UpArgs),
    /// Run the stack, ask for a guest over REST, and show what happens until it answers.
    Demo(stack::UpArgs),
    /// Stop a stack that runs, guests too.
    Down(stack::DownArgs),
    /// Measure the whole path of jobs on simulated hosts, next to this machine's limits; `--help` lists its options.
    #[command(disable_help_flag = true)]
    Bench(bench::BenchArgs),
    /// Break a whole stack in every way that the job protocol names, and check its invariants; `--help` lists its options.
    #[command(disable_help_flag = true)]
    Chaos(chaos::ChaosArgs),
    /// Simulate the whole path in one process, thousands of schedules by their seeds; `--help` lists its options.
    #[command(disable_help_flag = true)]
    Sim(sim::SimArgs),
    /// Run every test of the workspace, with real tools.
    Test(test::TestArgs),
    /// Rewrite the committed query data in `.sqlx` from the migrations.
    Sqlx(sqlx::SqlxArgs),
    /// Everything that CI checks, in its order.
    Prepush(prepush::PrepushArgs),
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Tools => tools::command(),
        Task::Image => image::command(),
        Task::Up(args) => stack::up(&args),
        Task::Demo(args) => demo::command(&args),
        Task::Down(args) => stack::down(&args),
        Task::Bench(args) => bench::command(&args),
        Task::Chaos(args) => chaos::command(&args),
        Task::Sim(args) => sim::command(&args),
        Task::Test(args) => test::command(&args),
        Task::Sqlx(args) => sqlx::command(&args),
        Task::Prepush(args) => prepush::command(&args),
    }
}
