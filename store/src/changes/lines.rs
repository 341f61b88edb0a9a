//! Entries as a row keeps them: a line each, `KIND ID CHANGE`, and of a job the state that it was left in.

use super::Thing;
use crate::StoreError;
use crate::rows::parse;
use rhyzome_model::change::What;
use rhyzome_model::ids::{JobId, ResourceId};
use rhyzome_model::job::JobState;
use rhyzome_model::kinds::Kind;
use uuid::Uuid;

/// Adds a line.
pub(super) fn add(lines: &mut String, thing: Thing, what: What) {
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines.push_str(thing.kind());
    lines.push(' ');
    lines.push_str(thing.id().hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    lines.push(' ');
    lines.push_str(what.as_str());
    if let Thing::Job(_, state) = thing {
        lines.push(' ');
        lines.push_str(state.as_str());
    }
}

/// Reads all lines.
pub(super) fn read(lines: &str) -> Result<Vec<(Thing, What)>, StoreError> {
    lines.split('\n').map(line).collect()
}

fn line(line: &str) -> Result<(Thing, What), StoreError> {
    let broken = || StoreError::row("changes", format!("entry {line:?}"));
    let mut words = line.split(' ');
    let (kind, id, what) = match (words.next(), words.next(), words.next()) {
        (Some(kind), Some(id), Some(what)) => (kind, Uuid::parse_str(id).map_err(|_| broken())?, what),
        (None, ..) | (Some(_), None, _) | (Some(_), Some(_), None) => return Err(broken()),
    };
    let thing = match (kind, words.next()) {
        ("job", Some(state)) => Thing::Job(JobId(id), parse("changes", state, JobState::parse)?),
        ("job", None) | (_, Some(_)) => return Err(broken()),
        (kind, None) => Thing::Resource(parse("changes", kind, Kind::parse)?, ResourceId(id)),
    };
    Ok((thing, parse("changes", what, What::parse)?))
}

#[cfg(test)]
mod tests {
    use super::{add, read};
    use crate::changes::Thing;
    use rhyzome_model::change::What;
    use rhyzome_model::ids::{JobId, ResourceId};
    use rhyzome_model::job::JobState;
    use rhyzome_model::kinds::Kind;

    #[test]
    fn what_is_written_reads_back_and_nothing_else_does() {
        let entries = [
            (Thing::Job(JobId::new(), JobState::Undoing), What::Updated),
            (Thing::Resource(Kind::Instance, ResourceId::new()), What::Deleted),
        ];
        let mut lines = String::new();
        for (thing, what) in entries {
            add(&mut lines, thing, what);
        }
        assert_eq!(read(&lines).unwrap(), entries);
        let id = uuid::Uuid::nil();
        for bad in [
            String::new(),
            format!("job {id} updated"),
            format!("network {id} updated queued"),
            format!("network {id}"),
            format!("network {id} moved"),
            format!("planet {id} updated"),
            "network x updated".to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
    }
}
