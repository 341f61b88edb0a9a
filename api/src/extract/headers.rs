//! Request headers that change what is done: `Prefer` (RFC 7240), `If-Match` (RFC 9110), `Idempotency-Key`.

use crate::problem::{Code, Problem};
use http::{HeaderMap, HeaderName};
use rhyzome_model::problem::FieldError;
use rhyzome_store::changes::Position;
use std::time::Duration;

/// The longest that a request may ask to wait, seconds.
pub const WAIT_MAX_S: u64 = 60;
/// Characters of an idempotency key.
const KEY_MAX: usize = 255;

/// How long the caller prefers to wait for the job's end. What isn't understood is passed over, as RFC 7240 says.
pub fn prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|preference| {
            let (name, value) = preference.split(';').next()?.split_once('=')?;
            let seconds = name
                .trim()
                .eq_ignore_ascii_case("wait")
                .then(|| value.trim().trim_matches('"'))?;
            Some(Duration::from_secs(seconds.parse::<u64>().ok()?.min(WAIT_MAX_S)))
        })
}

/// The `Idempotency-Key`: 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = only(headers, &HeaderName::from_static("idempotency-key"))? else {
        return Ok(None);
    };
    if text.is_empty() || text.len() > KEY_MAX || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        let detail = format!("an idempotency key is 1 to {KEY_MAX} visible ASCII characters");
        return Err(Problem::invalid(vec![FieldError::new(
            "",
            "INVALID_HEADER",
            detail,
        )]));
    }
    Ok(Some(text.to_owned()))
}

/// Where a stream of events is to go on.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let name = HeaderName::from_static("last-event-id");
    only(headers, &name)?
        .map(|text| {
            text.parse().map_err(|_| {
                let shown: String = text.chars().take(80).collect();
                let detail = format!(
                    "Last-Event-ID {shown:?} is not the id of an event of this API, which is three numbers with a dash between them"
                );
                Problem::invalid(vec![FieldError::new("", "INVALID_HEADER", detail)])
            })
        })
        .transpose()
}

/// What `If-Match` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// It wasn't sent, or is `*`: any state will do.
    Any,
    /// One of these strong tags, quotes included.
    OneOf(Vec<String>),
}

impl IfMatch {
    /// Of a request.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut tags = Vec::new();
        for value in headers.get_all(http::header::IF_MATCH) {
            let text = value.to_str().map_err(|_| bad("If-Match"))?;
            for tag in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
                if tag == "*" {
                    return Ok(Self::Any);
                }
                tags.push(tag.to_owned());
            }
        }
        Ok(if tags.is_empty() {
            Self::Any
        } else {
            Self::OneOf(tags)
        })
    }

    /// Refuses a resource whose tag is another. Weak tags never match.
    pub fn check(&self, etag: &str) -> Result<(), Problem> {
        match self {
            Self::Any => Ok(()),
            Self::OneOf(tags) if tags.iter().any(|t| t == etag) => Ok(()),
            Self::OneOf(_) => Err(Problem::new(
                Code::PreconditionFailed,
                format!("Its ETag is {etag} now; read it again."),
            )),
        }
    }
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| bad(name.as_str())),
        (Some(_), Some(_)) => Err(bad(name.as_str())),
    }
}

fn bad(name: &str) -> Problem {
    Problem::invalid(vec![FieldError::new(
        "",
        "INVALID_HEADER",
        format!("the header {name} can't be read"),
    )])
}

#[cfg(test)]
mod tests {
    use super::{IfMatch, idempotency_key, prefer_wait};
    use http::{HeaderMap, HeaderName, HeaderValue};
    use std::time::Duration;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|v| (HeaderName::from_static(name), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn prefer() {
        let table: &[(&[&str], Option<u64>)] = &[
            (&[], None),
            (&["wait=10"], Some(10)),
            (&["respond-async, Wait=5; x=1"], Some(5)),
            (&["return=minimal", "wait=\"7\""], Some(7)),
            (&["wait=600"], Some(60)),
            (&["wait=-1"], None),
            (&["wait"], None),
        ];
        for (values, seconds) in table {
            assert_eq!(
                prefer_wait(&headers("prefer", values)),
                seconds.map(Duration::from_secs),
                "{values:?}"
            );
        }
    }

    #[test]
    fn keys() {
        assert_eq!(
            idempotency_key(&headers("idempotency-key", &["a-1"]))
                .unwrap()
                .as_deref(),
            Some("a-1")
        );
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        let long = "k".repeat(256);
        for values in [&["a", "b"][..], &[""], &[long.as_str()]] {
            assert_eq!(
                idempotency_key(&headers("idempotency-key", values)).map_err(|p| p.status()),
                Err(400)
            );
        }
    }

    #[test]
    fn if_match() {
        let of = |values: &[&str]| IfMatch::of(&headers("if-match", values)).unwrap();
        assert_eq!(of(&[]), IfMatch::Any);
        assert_eq!(of(&["*"]), IfMatch::Any);
        assert!(of(&["\"1\", \"2\""]).check("\"2\"").is_ok());
        assert_eq!(of(&["\"1\""]).check("\"2\"").map_err(|p| p.status()), Err(412));
        assert_eq!(of(&["W/\"2\""]).check("\"2\"").map_err(|p| p.status()), Err(412));
    }
}
