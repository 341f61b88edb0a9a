//! Lists: `{items, next_page_token}`. A token says where the page before ended, and nothing else; it is no secret and grants nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// Items of a page where the request doesn't say.
pub const LIMIT_DEFAULT: i64 = 50;
/// Items of a page at most.
pub const LIMIT_MAX: i64 = 500;

/// A page.
#[derive(Debug, Serialize)]
pub struct PageDoc<T> {
    /// Newest last.
    pub items: Vec<T>,
    /// For the next page; null on the last one.
    pub next_page_token: Option<String>,
}

/// The place after a row of a list by time.
pub type After = (DateTime<Utc>, Uuid);

/// The token of a place.
pub fn token(after: After) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", after.0.timestamp_micros(), after.1.simple()))
}

/// The place of a token. A time that no row can have is no place: Postgres has no times as early as a token can name.
pub fn after(token: &str) -> Option<After> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (micros, id) = text.split_once('.')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    (at >= DateTime::UNIX_EPOCH).then_some(())?;
    Some((at, Uuid::parse_str(id).ok()?))
}

/// The token of a text that orders a list.
pub fn text_token(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The text of a token.
pub fn text_after(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{after, token};
    use chrono::DateTime;
    use uuid::Uuid;

    #[test]
    fn tokens_come_back() {
        let place = (
            DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            Uuid::now_v7(),
        );
        assert_eq!(after(&token(place)), Some(place));
        for bad in ["", "!", "AAAA", "MS4y"] {
            assert_eq!(after(bad), None, "{bad}");
        }
        let first = DateTime::from_timestamp_micros(i64::MIN / 4).unwrap();
        assert_eq!(after(&token((first, Uuid::nil()))), None);
    }
}
