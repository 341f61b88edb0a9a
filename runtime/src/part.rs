//! The parts of a role: tasks, and threads, that are there as long as the process is.
//!
//! A role that has lost one of them would look alive and leave undone what the part was for: jobs dispatched and never settled, creates that
//! nobody accepts. So a part that panics ends the process, at once, as a kill does: everything here is made to be killed, and whoever
//! supervises the process starts it again.

use futures::FutureExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::task::JoinHandle;

/// The exit status of a process that a part's panic ended; that of a panic in `main`.
pub const STATUS: i32 = 101;

/// Runs a part in a task of its own, as [`guard`] says. Must be called in a tokio runtime.
pub fn spawn<F>(name: &'static str, part: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(guard(name, part))
}

/// A part, for who runs it: its panic ends the process. One that returns is over, and ends nothing.
pub async fn guard<F: Future>(name: &'static str, part: F) -> F::Output {
    let ended = AssertUnwindSafe(part).catch_unwind().await;
    ended.unwrap_or_else(|_| end(name))
}

/// A part that is a thread of its own: its panic ends the process. One that returns is over, and ends nothing.
pub fn run<T>(name: &'static str, part: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|_| end(name))
}

fn end(name: &str) -> ! {
    // The panic hook wrote its message and place into the log.
    tracing::error!(part = name, "a part of this process panicked: the process ends");
    std::process::exit(STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    /// Set in the process that a test starts from itself.
    const ROLE: &str = "RHYZOME_TEST_PART";

    fn in_a_process_of_its_own(test: &str, role: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(ROLE, role)
            .output()
            .unwrap()
    }

    #[tokio::test]
    async fn a_part_that_panics_ends_the_process_and_one_that_returns_does_not() {
        const THIS: &str = "part::tests::a_part_that_panics_ends_the_process_and_one_that_returns_does_not";
        match std::env::var(ROLE).as_deref() {
            Ok("panics") => {
                // The task that looks at it is not needed for the end.
                drop(spawn("settle", async { panic!("of a fault") }));
                std::future::pending::<()>().await;
            }
            Ok(_) => assert_eq!(spawn("settle", async { 7 }).await.unwrap(), 7),
            Err(_) => {
                let ended = in_a_process_of_its_own(THIS, "panics");
                assert_eq!(ended.status.code(), Some(STATUS), "{ended:?}");
                assert!(
                    String::from_utf8_lossy(&ended.stderr).contains("of a fault"),
                    "{ended:?}"
                );
                let ended = in_a_process_of_its_own(THIS, "returns");
                assert!(ended.status.success(), "{ended:?}");
            }
        }
    }
}
