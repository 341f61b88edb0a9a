//! What is wrong with a configuration, in words for who wrote it.

use super::{ConfigError, Layers, is_secret};
use config::{ConfigError as Inner, Value, ValueKind};

const NO_SUCH_KEY: &str = "there is no such key";

/// Turns the library's error into one that names the key, its value, where it came from, and what would be right.
pub(super) fn explain(error: Inner, layers: &Layers) -> ConfigError {
    let origins = &layers.origins;
    let (key, what) = flatten(error);
    let what = match layers.values.get(&key) {
        Some(value) => with_value(&key, value, what),
        None => what,
    };
    let inside = format!("{key}.");
    let origin = origins
        .get(&key)
        .or_else(|| {
            origins
                .iter()
                .find(|(known, _)| known.starts_with(&inside))
                .map(|(_, origin)| origin)
        })
        .or_else(|| key.rsplit_once('[').and_then(|(list, _)| origins.get(list)))
        .cloned();
    ConfigError::Value { key, origin, what }
}

/// The value before what is wrong with it, where that doesn't say it, and it is nobody's secret.
fn with_value(key: &str, value: &Value, what: String) -> String {
    match &value.kind {
        ValueKind::String(text)
            if !what.starts_with(NO_SUCH_KEY)
                && !what.contains(text.as_str())
                && !text.contains('@')
                && !is_secret(key) =>
        {
            format!("{text:?}: {what}")
        }
        _ => what,
    }
}

fn flatten(error: Inner) -> (String, String) {
    match error {
        Inner::Type {
            unexpected,
            expected,
            key,
            ..
        } => (key.unwrap_or_default(), format!("{unexpected} isn't {expected}")),
        Inner::At { error, key, .. } => {
            let (inner, what) = flatten(*error);
            let outer = key.unwrap_or_default();
            let key = match (outer.is_empty(), inner.is_empty()) {
                (true, _) => inner,
                (false, true) => outer,
                (false, false) => format!("{outer}.{inner}"),
            };
            (key, what)
        }
        Inner::NotFound(key) => (key, "it is missing".to_owned()),
        other => unknown_field(&other.to_string()),
    }
}

/// serde words it "unknown field `x`, expected `a` or `b`" and hands the name on in no other way.
fn unknown_field(message: &str) -> (String, String) {
    let named = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, rest)| {
            (
                name.to_owned(),
                format!("{NO_SUCH_KEY}{}", rest.replace(", expected", ": expected is")),
            )
        });
    named.unwrap_or_else(|| (String::new(), message.to_owned()))
}
