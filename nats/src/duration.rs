//! Durations as text, as they stand in `rhyzome.toml`: whole numbers with units `ms`, `s`, `m`, `h`, `d` ("30s", "500ms", "1m30s").
//!
//! For `#[serde(with = "rhyzome_nats::duration")]`.

use serde::{Deserialize, Deserializer, Serializer};
use std::time::Duration;

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads one; the error says what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("duration {text:?}: want numbers with units (ms, s, m, h, d), such as \"30s\" or \"1m30s\"")
    };
    let mut rest = text.trim();
    let mut millis = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, tail) = tail.split_at(tail.bytes().take_while(u8::is_ascii_alphabetic).count());
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor)
            .ok_or_else(wrong)?;
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .ok_or_else(wrong)?;
        millis = millis.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes one, in the largest unit that holds it whole (milliseconds are the finest).
pub fn text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    for (unit, millis) in UNITS {
        if ms > 0 && ms.is_multiple_of(millis) {
            return format!("{}{unit}", ms / millis);
        }
    }
    format!("{ms}ms")
}

/// See the module.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// See the module.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text(*duration))
}

#[cfg(test)]
mod tests {
    use super::{parse, text};
    use std::time::Duration;

    #[test]
    fn reads_and_writes() {
        for (t, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(t), Ok(Duration::from_millis(ms)));
            assert_eq!(text(Duration::from_millis(ms)), t);
        }
        for bad in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "30 parsecs",
            "99999999999999999999s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(text(Duration::ZERO), "0ms");
    }
}
