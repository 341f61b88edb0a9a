//! Work that may block: all that reads or writes the host's storage, which may hang (a network file system, a disk that is dying).
//!
//! One thread for an operation as a whole, on which its own waits (for a program, a guest, a download) are waited out as well. What hangs
//! so holds up itself, and who waits for it; the threads of the runtime go on with all else.

use std::future::Future;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Does it on a thread that may block. Where nobody waits any more it ends at its next wait; `tasks` holds it until it has.
pub(crate) async fn aside<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (runtime, held) = (Handle::current(), tasks.token());
    let stop = CancellationToken::new();
    let work = stop.clone().run_until_cancelled_owned(work.in_current_span());
    let _stops = stop.drop_guard();
    let done = tokio::task::spawn_blocking(move || {
        let done = runtime.block_on(work);
        drop(held);
        done
    });
    match done.await {
        Ok(Some(done)) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Nobody waits, or the runtime is ending.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_blocks_holds_up_nothing_else() {
        let tasks = TaskTracker::new();
        let (release, blocks) = std::sync::mpsc::channel::<u32>();
        let waits = {
            let tasks = tasks.clone();
            tokio::spawn(async move { aside(&tasks, async move { blocks.recv().unwrap() }).await })
        };
        // The runtime's only thread: it could do neither.
        assert_eq!(tokio::spawn(async { 1 }).await.unwrap(), 1);
        assert_eq!(aside(&tasks, async { 2 }).await, 2);
        release.send(3).unwrap();
        assert_eq!(waits.await.unwrap(), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_nobody_waits_for_ends_at_its_next_wait_and_is_waited_for() {
        struct Ends(Arc<AtomicBool>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let tasks = TaskTracker::new();
        let ended = Arc::new(AtomicBool::new(false));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let ends = Ends(ended.clone());
        let waits = aside(&tasks, async move {
            let _ends = ends;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            () = waits => unreachable!("it never ends by itself"),
            begun = has_begun => begun.unwrap(),
        }
        tasks.close();
        tasks.wait().await;
        assert!(ended.load(Ordering::Acquire));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_panic_is_its_callers() {
        let tasks = TaskTracker::new();
        let panics = tokio::spawn(async move { aside(&tasks, async { panic!("the test's own") }).await });
        let error: Result<(), _> = panics.await;
        assert!(error.unwrap_err().is_panic());
    }
}
