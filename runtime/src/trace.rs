//! W3C trace context (<https://www.w3.org/TR/trace-context/>): one id from the HTTP request to the agent's step.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A `traceparent`: the trace's id, and the id of the part that calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Why a text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct TraceParentError;

fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    RandomState::new().hash_one((count, std::process::id()))
}

fn random_id() -> u64 {
    loop {
        let id = random();
        if id != 0 {
            return id;
        }
    }
}

impl TraceParent {
    /// A new trace.
    pub fn new() -> Self {
        Self {
            trace: (u128::from(random_id()) << 64) | u128::from(random()),
            span: random_id(),
            flags: 1,
        }
    }

    /// The same trace, another part.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span: random_id(),
            ..*self
        }
    }

    /// What the caller sent, or a new trace where it sent nothing usable.
    pub fn from_caller(header: Option<&str>) -> Self {
        header.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// 32 hex digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// 16 hex digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span)
    }

    /// A tracing span with the field `trace_id`, under which everything that is logged bears it.
    pub fn span(&self, name: &'static str) -> tracing::Span {
        tracing::info_span!("traced", otel.name = name, trace_id = %self.trace_id())
    }
}

impl Default for TraceParent {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let lower_hex = |part: &str, length: usize| {
            part.len() == length
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut parts = text.split('-');
        let (Some(version), Some(trace), Some(span), Some(flags)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TraceParentError);
        };
        let whole =
            lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(span, 16) && lower_hex(flags, 2);
        if !whole || version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(TraceParentError);
        }
        let parent = Self {
            trace: u128::from_str_radix(trace, 16).map_err(|_| TraceParentError)?,
            span: u64::from_str_radix(span, 16).map_err(|_| TraceParentError)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| TraceParentError)?,
        };
        if parent.trace == 0 || parent.span == 0 {
            Err(TraceParentError)
        } else {
            Ok(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_keeps_the_trace() {
        let parent = TraceParent::new();
        let child = parent.child();
        assert_eq!(parent.trace_id(), child.trace_id());
        assert_ne!(parent.span_id(), child.span_id());
        assert_eq!(child.to_string().parse::<TraceParent>().unwrap(), child);
        assert_ne!(parent.trace_id(), TraceParent::new().trace_id());
    }

    #[test]
    fn the_examples_of_the_recommendation() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent: TraceParent = text.parse().unwrap();
        assert_eq!(parent.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.to_string(), text);
        for wrong in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(wrong.parse::<TraceParent>().is_err(), "{wrong}");
        }
    }
}
