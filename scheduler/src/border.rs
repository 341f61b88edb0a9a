//! What agents and workers say, made fit to be kept: guests' monitors and whoever took over a hypervisor speak through them. PostgreSQL
//! takes no NUL in texts and JSON, and a row that it refuses must not hold up its neighbours.

use rhyzome_model::text::{Form, cleaned};
use rhyzome_proto::agent::{GuestSeen, HostCapacity, HostHello};
use rhyzome_proto::event::Report;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Characters of one text; more is cut off.
const TEXT: usize = 2_000;
/// Figures of one guest.
const FIGURES: usize = 32;
/// How JSON writes a NUL.
const NUL: &[u8] = br"\u0000";

/// A text without control characters but line ends and tabs, and not too long.
pub(crate) fn text(said: &str) -> Cow<'_, str> {
    cleaned(said, Form::Lines, TEXT)
}

fn make_fit(said: &mut String) {
    if let Cow::Owned(fit) = text(said) {
        *said = fit;
    }
}

/// A document whose texts and names are fit.
pub(crate) fn document(said: Value) -> Value {
    match said {
        Value::String(mut said) => {
            make_fit(&mut said);
            Value::String(said)
        }
        Value::Array(all) => all.into_iter().map(document).collect(),
        Value::Object(fields) => {
            let fields: Map<String, Value> = fields
                .into_iter()
                .map(|(mut name, value)| {
                    make_fit(&mut name);
                    (name, document(value))
                })
                .collect();
            Value::Object(fields)
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

/// JSON as bytes. What is no JSON stays as it is: who reads it says so.
fn make_json_fit(bytes: &mut Vec<u8>) {
    if !bytes.windows(NUL.len()).any(|part| part == NUL) {
        return;
    }
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        *bytes = document(value).to_string().into_bytes();
    }
}

/// What became of an order.
pub(crate) fn report(mut report: Report) -> Report {
    for step in &mut report.steps {
        make_fit(&mut step.name);
        make_fit(&mut step.detail);
        make_json_fit(&mut step.output);
    }
    if let Some(outcome) = &mut report.outcome {
        make_json_fit(&mut outcome.error);
    }
    report
}

/// A guest as it was seen: `{power, detail, metrics}`. A power that isn't known is none that was seen.
pub(crate) fn guest(seen: &GuestSeen) -> Value {
    let power = match seen.power.as_str() {
        known @ ("on" | "off" | "crashed") => known,
        _ => "unknown",
    };
    let figures: BTreeMap<String, f64> = seen
        .metrics
        .iter()
        .filter(|(name, figure)| cleaned(name, Form::Line, TEXT) == name.as_str() && figure.is_finite())
        .map(|(name, figure)| (name.clone(), *figure))
        .take(FIGURES)
        .collect();
    json!({ "power": power, "detail": text(&seen.detail), "metrics": figures })
}

/// A host's labels.
pub(crate) fn labels(capacity: &HostCapacity) -> BTreeMap<String, String> {
    let labels = capacity.labels.iter();
    labels
        .map(|(name, value)| (text(name).into_owned(), text(value).into_owned()))
        .collect()
}

/// The ledger that an agent has.
pub(crate) fn ledger(hello: &HostHello) -> String {
    text(&hello.ledger_id).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_proto::event::{Outcome, StepResult};

    #[test]
    fn nothing_that_postgres_refuses_comes_through() {
        let said = Report {
            steps: vec![StepResult {
                name: "ensure\0_disk".to_owned(),
                detail: "a\0b\u{1b}[2J\tc\nd".to_owned(),
                output: br#"{"a\u0000":["\u0000b", 1]}"#.to_vec(),
                ..StepResult::default()
            }],
            outcome: Some(Outcome {
                error: br#"{"code":"X","detail":"y\u0000","retryable":true}"#.to_vec(),
                ..Outcome::default()
            }),
            ..Report::default()
        };
        let fit = report(said);
        assert_eq!(fit.steps[0].name, "ensure_disk");
        assert_eq!(fit.steps[0].detail, "ab[2J\tc\nd");
        assert_eq!(fit.steps[0].output, br#"{"a":["b",1]}"#);
        let error = fit.outcome.unwrap().model_error().unwrap().unwrap();
        assert_eq!(error.detail, "y");
    }

    #[test]
    fn what_is_fit_stays_as_it_is_and_texts_have_an_end() {
        let output = br#"{"sha256": "ab"}"#.to_vec();
        let said = Report {
            steps: vec![StepResult {
                output: output.clone(),
                ..StepResult::default()
            }],
            ..Report::default()
        };
        assert_eq!(report(said.clone()), said);
        assert_eq!(text(&"ä".repeat(TEXT + 1)).chars().count(), TEXT);
    }

    #[test]
    fn a_guest_has_a_power_that_is_known_and_figures_that_are_numbers() {
        let seen = GuestSeen {
            power: "o\0n".to_owned(),
            detail: "the guest ended: a\0b".to_owned(),
            metrics: [
                ("uptime_seconds".to_owned(), 3.0),
                ("x\0".to_owned(), 1.0),
                ("nan".to_owned(), f64::NAN),
            ]
            .into(),
            ..GuestSeen::default()
        };
        assert_eq!(
            guest(&seen),
            json!({ "power": "unknown", "detail": "the guest ended: ab", "metrics": { "uptime_seconds": 3.0 } })
        );
    }
}
