//! Waiting for a state: generous in time, never a sleep that stands for an assertion.

use std::time::{Duration, Instant};

/// How long a test waits for a state before it fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `is` answers something.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, is: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, what, is).await
}

/// As [`eventually`], with a time of its own.
///
/// # Panics
/// After `patience`, with what was waited for.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut is: impl FnMut() -> F,
) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = is().await {
            return found;
        }
        assert!(Instant::now() < until, "waited {patience:?} in vain for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As [`eventually`], for tests without a runtime.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
pub fn eventually_blocking<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
