//! Lists: `{items, next_page_token}`. A token says where the page before ended, and nothing else; it is no secret and grants nothing.

use crate::problem::Problem;
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

/// A page that is written item by item, so that no more is kept than its text.
#[derive(Debug)]
pub struct PageText {
    text: Vec<u8>,
    items: usize,
}

impl PageText {
    /// Without items.
    #[allow(
        clippy::new_without_default,
        reason = "a page without items is begun, and not made"
    )]
    pub fn new() -> Self {
        Self {
            text: br#"{"items":["#.to_vec(),
            items: 0,
        }
    }

    /// How many items it has.
    pub fn items(&self) -> usize {
        self.items
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Writes a further item.
    pub fn push(&mut self, item: &impl Serialize) -> Result<(), Problem> {
        if self.items > 0 {
            self.text.push(b',');
        }
        serde_json::to_writer(&mut self.text, item).map_err(|error| Problem::internal("list", &error))?;
        self.items += 1;
        Ok(())
    }

    /// The text, with the token of the next page.
    pub fn finish(mut self, next_page_token: Option<&str>) -> Result<Vec<u8>, Problem> {
        self.text.extend_from_slice(br#"],"next_page_token":"#);
        serde_json::to_writer(&mut self.text, &next_page_token)
            .map_err(|error| Problem::internal("list", &error))?;
        self.text.push(b'}');
        Ok(self.text)
    }
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
    use super::{PageDoc, PageText, after, token};
    use chrono::DateTime;
    use uuid::Uuid;

    #[test]
    fn what_is_written_item_by_item_reads_like_what_is_written_at_once() {
        for items in [vec![], vec!["a"], vec!["a", "b\"", "c"]] {
            for next_page_token in [None, Some("x".to_owned())] {
                let mut page = PageText::new();
                for item in &items {
                    page.push(item).unwrap();
                }
                assert_eq!(page.items(), items.len());
                let whole = PageDoc {
                    items: items.clone(),
                    next_page_token: next_page_token.clone(),
                };
                let text = page.finish(next_page_token.as_deref()).unwrap();
                assert_eq!(text, serde_json::to_vec(&whole).unwrap());
            }
        }
    }

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
