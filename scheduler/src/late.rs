//! The error of a job whose deadline came: it says what it waited for, or what its last try failed with.

use rhyzome_model::problem::JobError;

/// Its code.
const CODE: &str = "DEADLINE_EXCEEDED";
const LATE: &str = "It was not done before its deadline.";

/// Of one that was tried. `last`: what its last try failed with.
pub(crate) fn after(last: Option<&JobError>) -> JobError {
    match last.filter(|last| last.code != CODE) {
        None => error(LATE.to_owned()),
        Some(last) => JobError {
            step: last.step.clone(),
            host: last.host.clone(),
            ..error(format!("{LATE} The last try failed: {}", last.detail))
        },
    }
}

/// Of one that no host has to take back. `waited`: what it stood for, a sentence.
pub(crate) fn waiting(waited: Option<&str>) -> JobError {
    error(waited.map_or_else(|| LATE.to_owned(), |waited| format!("{LATE} It waited: {waited}")))
}

fn error(detail: String) -> JobError {
    JobError {
        retryable: true,
        ..JobError::new(CODE, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_went_before() {
        let full = JobError {
            step: Some("ensure_disk".to_owned()),
            host: Some("h1".to_owned()),
            ..JobError::new("STORAGE", "The disk is full.")
        };
        let late = after(Some(&full));
        assert_eq!(late.code, CODE);
        assert_eq!(
            late.detail,
            format!("{LATE} The last try failed: The disk is full.")
        );
        assert_eq!(
            (late.step, late.host, late.retryable),
            (full.step, full.host, true)
        );
        // Told twice, it is said once.
        assert_eq!(after(Some(&error("again".to_owned()))).detail, LATE);
        assert_eq!(after(None).detail, LATE);
        assert_eq!(waiting(None).detail, LATE);
        assert_eq!(
            waiting(Some("No room.")).detail,
            format!("{LATE} It waited: No room.")
        );
    }
}
