//! When something is tried again: exponential, with full jitter, capped. The one module that knows the crate `backoff`.

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use chrono::TimeDelta;
use std::time::Duration;

/// The longest wait after so many failures in a row: `first` doubled each time, never above `most`.
pub fn ceiling(failures: i32, first: Duration, most: Duration) -> Duration {
    let doublings = u32::try_from(failures.max(1) - 1).unwrap_or(0).min(20);
    first.saturating_mul(1_u32 << doublings).min(most)
}

/// A wait after so many failures in a row: between a tenth of the ceiling and the ceiling, by `roll` in `0.0..1.0`.
pub fn wait(failures: i32, first: Duration, most: Duration, roll: f64) -> TimeDelta {
    let ceiling = ceiling(failures, first, most);
    let chosen = ceiling.mul_f64(0.1 + 0.9 * roll.clamp(0.0, 1.0));
    TimeDelta::from_std(chosen).unwrap_or(TimeDelta::MAX)
}

/// For a loop of this process that failed: reconnecting, a database out of reach. Never gives up.
#[derive(Debug)]
pub struct Pause {
    backoff: ExponentialBackoff,
    failures: u32,
}

impl Pause {
    /// From 100 ms to 5 s.
    pub fn new() -> Self {
        Self {
            backoff: ExponentialBackoffBuilder::new()
                .with_initial_interval(Duration::from_millis(100))
                .with_max_interval(Duration::from_secs(5))
                .with_max_elapsed_time(None)
                .build(),
            failures: 0,
        }
    }

    /// How long to wait this time.
    pub fn longer(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.next_backoff().unwrap_or(Duration::from_secs(5))
    }

    /// It worked again.
    pub fn reset(&mut self) {
        self.backoff.reset();
        self.failures = 0;
    }

    /// Whether it worked when it was tried before: a failure is news, and what follows it is more of the same.
    pub fn is_news(&self) -> bool {
        self.failures == 0
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{ceiling, wait};
    use std::time::Duration;

    #[test]
    fn doubles_to_a_ceiling() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(10));
        let waits: Vec<u64> = (0..7).map(|n| ceiling(n, first, most).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(ceiling(i32::MAX, first, most), most);
        assert!(wait(3, first, most, 0.0) < wait(3, first, most, 1.0));
    }
}
