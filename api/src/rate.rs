//! Requests a second of one tenant, counted after authentication, so that nobody uses up another's.

use crate::config::ApiConfig;
use crate::problem::{Code, Problem};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::HeaderValue;
use http::header::RETRY_AFTER;
use rhyzome_model::ids::TenantId;
use std::num::NonZeroU32;

/// See the module.
#[derive(Debug)]
pub struct TenantRate(Option<DefaultKeyedRateLimiter<TenantId>>);

impl TenantRate {
    /// As configured; without end where the rate is 0.
    pub fn new(config: &ApiConfig) -> Self {
        let limiter = NonZeroU32::new(config.rate_per_second).map(|rate| {
            let burst = NonZeroU32::new(config.rate_burst).unwrap_or(rate);
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst))
        });
        Self(limiter)
    }

    /// Counts a request, or refuses it with 429 and when to come back.
    pub fn check(&self, tenant: &TenantId) -> Result<(), Problem> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(tenant).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Problem::new(Code::RateLimited, "The tenant sends more requests than it may.")
                .with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TenantRate;
    use crate::config::ApiConfig;
    use rhyzome_model::ids::TenantId;

    #[test]
    fn counts_each_tenant_alone() {
        let rate = TenantRate::new(&ApiConfig {
            rate_per_second: 1,
            rate_burst: 2,
            ..ApiConfig::default()
        });
        let (a, b) = (TenantId::from("a"), TenantId::from("b"));
        assert!(rate.check(&a).is_ok() && rate.check(&a).is_ok());
        assert_eq!(rate.check(&a).map_err(|p| p.status()), Err(429));
        assert!(rate.check(&b).is_ok());
        let off = TenantRate::new(&ApiConfig {
            rate_per_second: 0,
            ..ApiConfig::default()
        });
        assert!((0..1000).all(|_| off.check(&a).is_ok()));
    }
}
