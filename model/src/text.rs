//! What somebody else said (a guest by its monitor, an agent, whoever sent a message), made fit for logs, answers and rows.
//!
//! PostgreSQL takes no NUL in texts and JSON, headers are lines, and a terminal obeys escapes. Control characters are those of Unicode's
//! category Cc: below U+0020, and U+007F to U+009F.

use std::borrow::Cow;

/// How much of a text's form stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No control character: each line end and tab is a blank, all others are left out.
    Line,
    /// No control character but `\n` and `\t`; all others are left out.
    Lines,
}

impl Form {
    /// What stands for a character.
    fn shown(self, c: char) -> Option<char> {
        match (self, c) {
            (Self::Line, '\n' | '\t') => Some(' '),
            (Self::Lines, '\n' | '\t') => Some(c),
            (Self::Line | Self::Lines, c) => Some(c).filter(|c| !c.is_control()),
        }
    }
}

/// A text in this form, cut after its first `most` characters that are shown. Borrowed exactly where it is as it was.
pub fn cleaned(said: &str, form: Form, most: usize) -> Cow<'_, str> {
    let printable = |b: u8| b.is_ascii() && !b.is_ascii_control();
    if said.len() <= most && said.bytes().all(printable) {
        return Cow::Borrowed(said);
    }
    let shown: String = said.chars().filter_map(|c| form.shown(c)).take(most).collect();
    if shown == said {
        Cow::Borrowed(said)
    } else {
        Cow::Owned(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_go_and_line_ends_stay_only_where_lines_may() {
        let said = "a\0b\u{1b}[2J\tc\r\nd\u{7f}\u{85}\u{9b}e";
        assert_eq!(cleaned(said, Form::Lines, 100), "ab[2J\tc\nde");
        assert_eq!(cleaned(said, Form::Line, 100), "ab[2J c de");
    }

    #[test]
    fn a_text_is_cut_at_characters_and_not_at_bytes() {
        let said = "ä\0ö".repeat(3);
        assert_eq!(cleaned(&said, Form::Line, 4), "äöäö");
        assert_eq!(
            cleaned(&said, Form::Line, 6),
            "äöäöäö",
            "what is left out doesn't count"
        );
        assert_eq!(cleaned("abc", Form::Line, 0), "");
    }

    #[test]
    fn what_is_fit_is_not_copied() {
        let is_borrowed = |said, form, most| matches!(cleaned(said, form, most), Cow::Borrowed(_));
        assert!(is_borrowed("plain", Form::Line, 5));
        assert!(is_borrowed("äöü", Form::Line, 3), "six bytes, three characters");
        assert!(is_borrowed("two\nlines", Form::Lines, 100));
        for (said, form, most) in [
            ("two\nlines", Form::Line, 100),
            ("plain", Form::Line, 4),
            ("c1\u{80}", Form::Lines, 100),
        ] {
            assert!(!is_borrowed(said, form, most), "{said:?}");
        }
    }
}
