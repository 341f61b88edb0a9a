use super::signs::{Signs, decide};
use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

fn id(n: u128) -> ResourceId {
    ResourceId(uuid::Uuid::from_u128(n))
}

/// A folder of which the agent may give files away; none where it may not, which is said.
fn users(layout: &Layout) -> Option<Users> {
    let users = Users::open(layout.clone(), "one").unwrap();
    if users.choice != Choice::OnePerGuest {
        eprintln!("SKIPPED, NOT TESTED: this test needs root");
        return None;
    }
    Some(users)
}

fn uid(users: &Users, id: ResourceId) -> u32 {
    users.of(id).unwrap().unwrap().uid
}

/// Two guests with the same hash.
fn twins(users: &Users) -> (ResourceId, ResourceId) {
    let mut seen = std::collections::HashMap::new();
    (0..)
        .map(id)
        .find_map(|id| seen.insert(users.hashed(id), id).map(|before| (before, id)))
        .unwrap()
}

fn with_disk(layout: &Layout, id: ResourceId, uid: Option<u32>) {
    fs::write(layout.disk(id), b"").unwrap();
    chown(layout.disk(id), uid, uid).unwrap();
}

#[test]
fn the_next_free_number_is_taken() {
    let taken = |uid| [FIRST + 6, FIRST + 7, FIRST + COUNT].contains(&uid);
    assert_eq!(choose(4, |_| false), Some(FIRST + 5));
    assert_eq!(choose(5, taken), Some(FIRST + 8));
    assert_eq!(choose(COUNT - 1, taken), Some(FIRST + 1), "it goes round");
    assert_eq!(choose(9, |_| true), None);
}

#[test]
fn two_guests_with_one_hash_never_get_one_number_and_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path().to_owned()).unwrap();
    let Some(users) = users(&layout) else { return };
    let (a, b) = twins(&users);
    let (of_b, of_a) = (uid(&users, b), uid(&users, a));
    assert_eq!(of_b, FIRST + 1 + users.hashed(b));
    assert_eq!(of_a, of_b + 1);
    for guest in [a, b] {
        with_disk(&layout, guest, None);
    }
    let again = || Users::open(layout.clone(), "one").unwrap();
    assert_eq!((uid(&again(), a), uid(&again(), b)), (of_a, of_b));

    // What the record said is told by files, too, and written again; and no guess of one takes what is the other's.
    for guest in [a, b] {
        let file = layout.disk(guest);
        let record = layout.user_record(guest);
        let known = fs::read(&record).unwrap();
        let uid_before = uid(&again(), guest);
        chown(&file, Some(uid_before), Some(uid_before)).unwrap();
        for lost in [None, Some("{"), Some("0")] {
            match lost {
                None => fs::remove_file(&record).unwrap(),
                Some(damaged) => fs::write(&record, damaged).unwrap(),
            }
            assert_eq!(uid(&again(), guest), uid_before, "{lost:?}");
            assert_eq!(fs::read(&record).unwrap(), known, "{lost:?}");
        }
        chown(&file, Some(0), Some(0)).unwrap();
    }
    fs::remove_file(layout.user_record(a)).unwrap();
    assert_eq!(
        uid(&again(), a),
        of_a,
        "nothing tells it, and it is the next free one again"
    );

    // A number is free once there is nothing of its guest.
    let users = again();
    users.let_go(b).unwrap();
    assert_eq!(uid(&users, b), of_b, "its disk is here");
    fs::remove_file(layout.disk(b)).unwrap();
    users.let_go(b).unwrap();
    assert!(!layout.user_record(b).exists());
    assert_eq!(uid(&users, a), of_a);
    assert_eq!(uid(&users, b), of_b);
    // One whose guest went without a word is free with the next start.
    drop(users);
    assert!(layout.user_record(b).exists());
    again();
    assert!(!layout.user_record(b).exists());
}

#[test]
fn a_guest_from_before_records_keeps_the_number_that_its_files_have() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path().to_owned()).unwrap();
    let Some(users) = users(&layout) else { return };
    let (a, b) = twins(&users);
    let old = FIRST + 1 + users.hashed(a);
    for guest in [a, b] {
        with_disk(&layout, guest, Some(old));
    }
    let users = Users::open(layout.clone(), "one").unwrap();
    let (of_a, of_b) = (uid(&users, a), uid(&users, b));
    assert!(of_a == old && of_b == old + 1, "{of_a} {of_b}");
    let kept: u32 = files::read_record(&layout.user_record(b)).unwrap().unwrap();
    assert_eq!(kept, of_b);
    assert_eq!(
        fs::metadata(layout.disk(b)).unwrap().uid(),
        old,
        "its start gives it"
    );
}

#[test]
fn a_number_that_somebody_elses_process_runs_as_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path().to_owned()).unwrap();
    let Some(users) = users(&layout) else { return };
    let guest = ResourceId::new();
    let hashed = FIRST + 1 + users.hashed(guest);
    let mut other = std::os::unix::process::CommandExt::uid(&mut std::process::Command::new("sleep"), hashed)
        .arg("60")
        .spawn()
        .unwrap();
    let given = uid(&users, guest);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(given, hashed + 1);
}

#[test]
fn what_runs_comes_first_then_records_then_files() {
    let signs = |process, record, files| Signs {
        process,
        record,
        files,
    };
    let (x, y, z) = (Some(1), Some(2), Some(3));
    let table: [(&[Signs], &[Option<u32>]); 8] = [
        (&[signs(None, x, y)], &[x]),
        (&[signs(None, None, y)], &[y]),
        (&[signs(None, None, None)], &[None]),
        // A record of before a put back, and a process of after it.
        (&[signs(None, x, x), signs(x, None, x)], &[None, x]),
        (&[signs(None, x, y), signs(x, None, x)], &[y, x]),
        // Two of one user run: the one that it was recorded for keeps it.
        (&[signs(x, y, x), signs(x, x, x)], &[y, x]),
        (&[signs(x, None, x), signs(x, None, x)], &[x, None]),
        (&[signs(y, z, x), signs(None, z, z)], &[y, z]),
    ];
    for (guests, expected) in table {
        let all = guests.iter().enumerate().map(|(n, s)| (id(n as u128), *s));
        let decided = decide(&all.collect());
        for (n, uid) in expected.iter().enumerate() {
            let has = decided.get(&id(n as u128));
            assert_eq!(has.map(|h| h.uid), *uid, "{guests:?}: guest {n}");
            assert_eq!(
                has.is_some_and(|h| h.recorded),
                uid.is_some() && guests[n].record == *uid
            );
        }
    }
}
