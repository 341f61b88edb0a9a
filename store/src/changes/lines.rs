//! Entries as a row keeps them: a line each, `KIND ID CHANGE`, and of a job the state that it was left in.

use super::Thing;
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

/// Reads all lines; none stands for one that only a later version can read.
pub(super) fn read(lines: &str) -> Vec<Option<(Thing, What)>> {
    lines.split('\n').map(line).collect()
}

fn line(line: &str) -> Option<(Thing, What)> {
    let mut words = line.split(' ');
    let (kind, id, what) = (words.next()?, words.next()?, words.next()?);
    let id = Uuid::parse_str(id).ok()?;
    let thing = match (kind, words.next()) {
        ("job", state) => Thing::Job(JobId(id), JobState::parse(state?)?),
        (_, Some(_)) => return None,
        (kind, None) => Thing::Resource(Kind::parse(kind)?, ResourceId(id)),
    };
    Some((thing, What::parse(what)?))
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
    fn what_is_written_reads_back_and_what_a_later_version_wrote_is_passed_over() {
        let entries = [
            (Thing::Job(JobId::new(), JobState::Undoing), What::Updated),
            (Thing::Resource(Kind::Instance, ResourceId::new()), What::Deleted),
        ];
        let mut lines = String::new();
        for (thing, what) in entries {
            add(&mut lines, thing, what);
        }
        assert_eq!(read(&lines), entries.map(Some));
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
            assert_eq!(read(&bad), [None], "{bad:?}");
        }
        // What can't be read keeps its place.
        let between = format!("disk {id} created\n{lines}");
        assert_eq!(read(&between), [None, Some(entries[0]), Some(entries[1])]);
    }
}
