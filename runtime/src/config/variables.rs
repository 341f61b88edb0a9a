//! Names of variables of the environment. One that begins with `RHYZOME_`, is read by nobody, and is written like a key of the
//! configuration (with `__`) or is like a name that is read, is refused: a typo must not be silently ignored, there as little as in the
//! file. Others are their users' own: what a script calls `RHYZOME_TOKEN` is not meant for us.

use super::{ConfigError, PREFIX, key_of_variable};
use crate::fault::{MUTANT, POINTS_FILE};
use crate::telemetry::LOG_FILTER;
use serde_json::Value;
use std::collections::BTreeSet;

/// What is read and is no key of the configuration.
pub const OTHERS: [&str; 10] = [
    LOG_FILTER,
    // By the command line.
    "RHYZOME_CONFIG",
    "RHYZOME_IMAGE_DIR",
    "RHYZOME_NATS_SERVER",
    "RHYZOME_POSTGRES_BIN",
    // By tests and what runs them, for the processes that they start.
    "RHYZOME_BIN",
    "RHYZOME_REQUIRE_REAL",
    "RHYZOME_SKIP_REAL",
    POINTS_FILE,
    MUTANT,
];
/// How those begin that tests alone read.
const TESTS: &str = "RHYZOME_TEST_";

/// Every key of the configuration.
#[derive(Debug, Default)]
pub struct Keys {
    leaves: BTreeSet<String>,
    /// Tables with whatever keys a user gives them.
    tables: BTreeSet<String>,
}

impl Keys {
    /// Of what is built in.
    pub fn of(built_in: &Value) -> Self {
        let mut keys = Self::default();
        keys.add("", built_in);
        keys
    }

    fn add(&mut self, key: &str, value: &Value) {
        match value {
            Value::Object(fields) if key.is_empty() || !fields.is_empty() => {
                for (name, value) in fields {
                    let inner = if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    };
                    self.add(&inner, value);
                }
            }
            Value::Object(_) => {
                self.tables.insert(key.to_owned());
            }
            _ => {
                self.leaves.insert(key.to_owned());
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        let in_table = |table: &String| {
            key.strip_prefix(table.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.leaves.contains(key) || self.tables.iter().any(in_table)
    }

    fn variables(&self) -> impl Iterator<Item = String> + '_ {
        let of = |key: &String| format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase());
        self.leaves.iter().chain(&self.tables).map(of)
    }
}

/// Refuses the first of these names of variables that is meant for us and that nobody reads.
///
/// # Errors
/// [`ConfigError::Variable`], with the nearest name that is read.
pub fn check(names: impl IntoIterator<Item = String>, keys: &Keys) -> Result<(), ConfigError> {
    for name in names {
        if !name.starts_with(PREFIX) || is_read(&name, keys) || is_of_services(&name) {
            continue;
        }
        let nearest = nearest(&name, keys);
        if nearest.is_some() || name[PREFIX.len()..].contains("__") {
            return Err(ConfigError::Variable { name, nearest });
        }
    }
    Ok(())
}

fn is_read(name: &str, keys: &Keys) -> bool {
    OTHERS.contains(&name)
        || name.starts_with(TESTS)
        || key_of_variable(name).is_some_and(|key| keys.has(&key))
}

/// Kubernetes tells each container of the services of its namespace: `RHYZOME_API_SERVICE_HOST`, `RHYZOME_API_PORT_8080_TCP` and the like
/// of one named `rhyzome-api`.
fn is_of_services(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts
        .windows(2)
        .any(|w| w == ["SERVICE", "HOST"] || w == ["SERVICE", "PORT"])
        || parts.last() == Some(&"PORT")
        || parts
            .windows(3)
            .any(|w| w[0] == "PORT" && is_number(w[1]) && matches!(w[2], "TCP" | "UDP" | "SCTP"))
}

/// What was most likely meant; none where nothing is alike.
fn nearest(name: &str, keys: &Keys) -> Option<String> {
    let far = name.len().saturating_sub(PREFIX.len()) / 3;
    OTHERS
        .iter()
        .map(|other| (*other).to_owned())
        .chain(keys.variables())
        .map(|known| (distance(&name.to_ascii_uppercase(), &known), known))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, known)| known)
}

/// How many letters must be put in, left out or changed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{Keys, check, distance};
    use serde_json::json;

    fn refused(name: &str) -> Option<String> {
        let keys = Keys::of(&json!({
            "scheduler": { "job_deadline": "1h", "watch_lease": "10s" },
            "agent": { "labels": {}, "image_dir": null, "image_allow": [] },
        }));
        check([name.to_owned()], &keys)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn what_nobody_reads_is_refused_with_what_was_meant() {
        for (wrong, meant) in [
            (
                "RHYZOME_SCHEDULR__JOB_DEADLINE",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            (
                "RHYZOME_SCHEDULER__JOB_DEADLIN",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            (
                "RHYZOME_SCHEDULER_JOB_DEADLINE",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            (
                "RHYZOME_SCHEDULER__JOB__DEADLINE",
                "RHYZOME_SCHEDULER__JOB_DEADLINE",
            ),
            ("RHYZOME_AGENT__LABEL", "RHYZOME_AGENT__LABELS"),
            ("RHYZOME_LOGS", "RHYZOME_LOG"),
            ("RHYZOME_log", "RHYZOME_LOG"),
            ("RHYZOME_CONFG", "RHYZOME_CONFIG"),
        ] {
            let said = refused(wrong).unwrap_or_else(|| panic!("{wrong} is taken"));
            assert!(
                said.contains(&format!(" {wrong} ")) && said.contains(&format!("{meant}?")),
                "{said}"
            );
        }
        let said = refused("RHYZOME_X__Y").unwrap();
        assert!(
            said.contains("RHYZOME_X__Y") && said.contains("RHYZOME_SECTION__KEY") && !said.contains('?'),
            "{said}"
        );
    }

    #[test]
    fn what_is_read_or_is_not_ours_is_taken() {
        for name in [
            "RHYZOME_SCHEDULER__JOB_DEADLINE",
            "RHYZOME_scheduler__job_deadline",
            "RHYZOME_AGENT__IMAGE_DIR",
            "RHYZOME_AGENT__IMAGE_ALLOW",
            "RHYZOME_AGENT__LABELS",
            "RHYZOME_AGENT__LABELS__ZONE",
            "RHYZOME_LOG",
            "RHYZOME_CONFIG",
            "RHYZOME_TEST_DATABASE_URL",
            "RHYZOME_API_SERVICE_HOST",
            "RHYZOME_API_SERVICE_PORT_HTTP",
            "RHYZOME_API_PORT",
            "RHYZOME_API_PORT_8080_TCP_ADDR",
            "RHYZOME_TOKEN",
            "RHYZOME_DATA",
            "RHYZOME_URL",
            "RHYZOME_X",
            "RHYZOM",
            "HOME",
        ] {
            assert_eq!(refused(name), None, "{name}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, letters) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (letters, letters), "{a} {b}");
        }
    }
}
