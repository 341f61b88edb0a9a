//! How much of the faults of a request is told. Guarantees: number and length are bounded, whatever the request is made of.

use rhyzome_model::problem::FieldError;
use std::borrow::Cow;

/// Faults that one answer tells of: a body can be made of faults alone.
pub const FAULTS_MAX: usize = 100;
/// Characters of a name that is the user's, where it is told.
const NAME_MAX: usize = 255;
/// Characters of a fault's pointer and of its detail.
const FAULT_TEXT_MAX: usize = 2_000;

/// A name of the user's, of a length that is told.
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    cut(name, NAME_MAX)
}

fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// No more, and no longer, than an answer tells.
pub(super) fn bounded(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    errors.truncate(FAULTS_MAX);
    for error in &mut errors {
        for text in [&mut error.pointer, &mut error.detail] {
            if let Cow::Owned(shorter) = cut(text, FAULT_TEXT_MAX) {
                *text = shorter;
            }
        }
    }
    errors
}

pub(super) fn summary(errors: &[FieldError], unlisted: usize) -> String {
    let Some(first) = errors.first() else {
        return "The request has a fault.".to_owned();
    };
    let first = where_and_what(first);
    let more = errors.len() - 1 + unlisted;
    match (more, more + 1 > FAULTS_MAX) {
        (0, _) => first,
        (_, false) => format!("{first} ({more} more in errors)"),
        (_, true) => format!("{first} ({more} more, the first {} in errors)", FAULTS_MAX - 1),
    }
}

/// A fault of a header, or of the whole body, has no place.
fn where_and_what(error: &FieldError) -> String {
    let detail = cut(&error.detail, FAULT_TEXT_MAX);
    if error.pointer.is_empty() {
        detail.into_owned()
    } else {
        format!("{}: {detail}", cut(&error.pointer, FAULT_TEXT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::{FAULT_TEXT_MAX, FAULTS_MAX};
    use crate::problem::Problem;
    use rhyzome_model::problem::FieldError;

    fn many(n: usize) -> Vec<FieldError> {
        (0..n)
            .map(|i| FieldError::new(format!("/{i}"), "UNKNOWN_FIELD", "no"))
            .collect()
    }

    #[test]
    fn all_that_a_person_makes_are_told_and_no_more_than_that() {
        let sane = Problem::invalid(many(FAULTS_MAX));
        assert_eq!(sane.errors().len(), FAULTS_MAX);
        assert!(
            sane.detail().ends_with("(99 more in errors)"),
            "{}",
            sane.detail()
        );
        let mad = Problem::invalid(many(5_000));
        assert_eq!(mad.errors().len(), FAULTS_MAX);
        assert!(
            mad.detail().ends_with("(4999 more, the first 99 in errors)"),
            "{}",
            mad.detail()
        );
        let twice = Problem::several(vec![Problem::validation(many(80)), Problem::validation(many(80))]);
        assert_eq!(twice.errors().len(), FAULTS_MAX);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ä".repeat(50_000);
        let problem = Problem::validation(vec![FieldError::new(format!("/{long}"), "X", long.as_str())]);
        let error = &problem.errors()[0];
        assert_eq!(error.pointer.chars().count(), FAULT_TEXT_MAX + 1);
        assert_eq!(error.detail.chars().count(), FAULT_TEXT_MAX + 1);
        assert!(problem.detail().chars().count() < 2 * FAULT_TEXT_MAX + 100);
    }
}
