//! Query parameters. Guarantees: a name that isn't known, one that is there twice, and a value that doesn't parse are refused with 400,
//! all at once, with the pointer `?name`.

use crate::problem::Problem;
use rhyzome_model::problem::FieldError;
use std::ops::RangeInclusive;
use url::form_urlencoded;

const UNREADABLE: [char; 2] = ['\0', char::REPLACEMENT_CHARACTER];

/// A query on its way to typed values: read each, then [`Query::finish`].
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    faults: Vec<FieldError>,
}

impl Query {
    /// The pairs of a query string, with a fault for each name that isn't among `known`.
    pub fn new(raw: Option<&str>, known: &[&str]) -> Self {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(raw.unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let mut faults: Vec<FieldError> = Vec::new();
        for (name, value) in &pairs {
            // Bytes that are no UTF-8 were replaced by this one character.
            if name.contains(UNREADABLE) || value.contains(UNREADABLE) {
                let detail = "its text has to be UTF-8, without U+0000 and U+FFFD";
                faults.push(FieldError::new(
                    format!("?{}", name.replace(UNREADABLE, "")),
                    "INVALID_VALUE",
                    detail,
                ));
            }
        }
        for (name, _) in pairs.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let detail = if known.is_empty() {
                format!("the parameter \"{name}\" is not known; there are none here")
            } else {
                format!(
                    "the parameter \"{name}\" is not known; known are {}",
                    known.join(", ")
                )
            };
            faults.push(FieldError::new(format!("?{name}"), "UNKNOWN_PARAMETER", detail));
        }
        Self { pairs, faults }
    }

    /// Adds a fault of a parameter.
    pub fn fault(&mut self, name: &str, detail: String) {
        self.faults
            .push(FieldError::new(format!("?{name}"), "INVALID_VALUE", detail));
    }

    /// A parameter that may be there once.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.many(name);
        if values.len() > 1 {
            self.fault(name, "it is there more than once".to_owned());
        }
        if values.is_empty() {
            None
        } else {
            Some(values.swap_remove(0))
        }
    }

    /// A parameter that may be there often.
    pub fn many(&self, name: &str) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// A parameter that parses, or is told what would.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(&text);
        if value.is_none() {
            self.fault(name, format!("{text:?} is not {wanted}"));
        }
        value
    }

    /// `true` or `false`; false where it isn't there.
    pub fn flag(&mut self, name: &str) -> bool {
        let value = self.parsed(name, "true or false", |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        });
        value.unwrap_or(false)
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let wanted = format!("a number from {} to {}", bounds.start(), bounds.end());
        self.parsed(name, &wanted, |text| {
            text.parse().ok().filter(|n| bounds.contains(n))
        })
    }

    /// Refuses where there was any fault.
    pub fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.faults))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn what_is_no_text_is_refused() {
        for raw in ["name=%00", "name=a%00b", "name=%ff", "%00=a", "tag=a:%00"] {
            let mut query = Query::new(Some(raw), &["name", "tag"]);
            let _name = query.text("name");
            assert_eq!(query.finish().unwrap_err().status(), 400, "{raw}");
        }
    }

    #[test]
    fn all_faults_at_once() {
        let mut query = Query::new(
            Some("limit=0&dry_run=yes&foo=1&name=a&name=b"),
            &["limit", "dry_run", "name"],
        );
        query.number("limit", 1..=500);
        query.flag("dry_run");
        query.text("name");
        let problem = query.finish().unwrap_err();
        let mut pointers: Vec<&str> = problem.errors().iter().map(|e| e.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(
            (problem.status(), pointers),
            (400, vec!["?dry_run", "?foo", "?limit", "?name"])
        );
    }

    #[test]
    fn values() {
        let mut query = Query::new(
            Some("tag=env%3Aprod&tag=a:b&limit=7&dry_run=true"),
            &["tag", "limit", "dry_run"],
        );
        assert_eq!(query.many("tag"), ["env:prod", "a:b"]);
        assert_eq!(query.number("limit", 1..=500), Some(7));
        assert!(query.flag("dry_run"));
        assert!(query.finish().is_ok());
        assert!(Query::new(None, &[]).finish().is_ok());
        assert!(Query::new(Some("dryrun=true"), &["dry_run"]).finish().is_err());
    }
}
