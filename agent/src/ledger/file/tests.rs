use super::*;
use crate::ledger::record::{Accepted, Change, Ending};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rhyzome_model::ids::{Epoch, Fence, HostName, JobId, ResourceId};
use rhyzome_model::job::Verdict;
use rhyzome_proto::event::StepResult;
use uuid::Uuid;

fn ids(rng: &mut StdRng, count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::from_u128(rng.random())).collect()
}

fn some_change(rng: &mut StdRng, jobs: &[Uuid], resources: &[Uuid]) -> Change {
    let at = rng.random_range(0..jobs.len());
    let job = JobId(jobs[at]);
    let resource = ResourceId(resources[at % resources.len()]);
    let fence = Fence(rng.random_range(1..50));
    let hashes = vec![[rng.random(); 32]; rng.random_range(1..4)];
    let accepted = Accepted {
        job,
        resource,
        fence,
        hashes,
    };
    let result = StepResult {
        index: rng.random_range(0..4),
        name: "ensure_disk".into(),
        detail: "x".repeat(rng.random_range(0..9)),
        ..StepResult::default()
    };
    match rng.random_range(0..12) {
        0 => Change::Host {
            ledger_id: Uuid::from_u128(rng.random()),
        },
        1 => Change::Epoch(Epoch(rng.random_range(1..3))),
        2 => Change::Floor(Fence(rng.random_range(1..20))),
        3 | 4 => Change::Begin(accepted),
        5 => Change::Turn {
            accepted,
            verdict: Verdict::Released,
            cause: b"{}".to_vec(),
        },
        6 => Change::Raise { job, fence },
        7 => Change::Done { job, result },
        8 => Change::Undone { job, result },
        9 => Change::Finish {
            job,
            ending: Ending::Succeeded,
            error: Vec::new(),
        },
        10 => Change::Finish {
            job,
            ending: Ending::Released,
            error: b"{}".to_vec(),
        },
        _ => Change::Forget(vec![resource]),
    }
}

fn hosts() -> [HostName; 2] {
    ["sim-1".into(), "sim-2".into()]
}

/// Some batches, and the state after each.
fn some_history(rng: &mut StdRng, file: &mut LedgerFile, state: &mut State) -> Vec<(u64, State)> {
    let (jobs, resources) = (ids(rng, 6), ids(rng, 4));
    let mut after = vec![(file.length(), state.clone())];
    for host in &hosts() {
        state.apply(
            host,
            &Change::Host {
                ledger_id: Uuid::from_u128(1),
            },
        );
        let mut batch = Vec::new();
        codec::encode(
            &mut batch,
            host,
            &Change::Host {
                ledger_id: Uuid::from_u128(1),
            },
        );
        file.append(&batch).unwrap();
        after.push((file.length(), state.clone()));
    }
    for _ in 0..rng.random_range(1..12) {
        let mut batch = Vec::new();
        for _ in 0..rng.random_range(1..6) {
            let host = &hosts()[rng.random_range(0..2)];
            let change = some_change(rng, &jobs, &resources);
            state.apply(host, &change);
            codec::encode(&mut batch, host, &change);
        }
        file.append(&batch).unwrap();
        after.push((file.length(), state.clone()));
    }
    after
}

#[test]
fn recovery_of_any_prefix_is_the_state_after_its_last_whole_batch() {
    for seed in 0..25 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let (mut file, mut state) = LedgerFile::open(dir.path()).unwrap();
        let after = some_history(&mut rng, &mut file, &mut state);
        drop(file);
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        for cut in 0..=bytes.len() {
            let recovered = recover(&dir.path().join(NAME), &bytes[..cut]).unwrap();
            let wanted = after.iter().rev().find(|(length, _)| *length <= cut as u64);
            let wanted = wanted.map_or_else(State::default, |(_, state)| state.clone());
            assert_eq!(
                recovered.state,
                wanted,
                "seed {seed}, cut at {cut} of {}",
                bytes.len()
            );
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_the_ledger_goes_on() {
    let mut rng = StdRng::seed_from_u64(7);
    let dir = tempfile::tempdir().unwrap();
    let (mut file, mut state) = LedgerFile::open(dir.path()).unwrap();
    let after = some_history(&mut rng, &mut file, &mut state);
    drop(file);
    let path = dir.path().join(NAME);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (mut file, recovered) = LedgerFile::open(dir.path()).unwrap();
    assert_eq!(recovered, after[after.len() - 2].1);
    let mut batch = Vec::new();
    codec::encode(&mut batch, &hosts()[0], &Change::Epoch(Epoch(99)));
    file.append(&batch).unwrap();
    drop(file);
    let (_, recovered) = LedgerFile::open(dir.path()).unwrap();
    assert_eq!(recovered.hosts[&hosts()[0]].epoch, Epoch(99));
}

#[test]
fn a_snapshot_is_the_same_state() {
    for seed in 100..120 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let (mut file, mut state) = LedgerFile::open(dir.path()).unwrap();
        some_history(&mut rng, &mut file, &mut state);
        file.replace(&snapshot(&state)).unwrap();
        let mut batch = Vec::new();
        let floor = Change::Floor(Fence(1000));
        codec::encode(&mut batch, &hosts()[1], &floor);
        state.apply(&hosts()[1], &floor);
        file.append(&batch).unwrap();
        drop(file);
        let (_, recovered) = LedgerFile::open(dir.path()).unwrap();
        assert_eq!(recovered, state, "seed {seed}");
    }
}

#[test]
fn damage_in_the_middle_is_an_error_that_says_where() {
    let mut rng = StdRng::seed_from_u64(3);
    let dir = tempfile::tempdir().unwrap();
    let (mut file, mut state) = LedgerFile::open(dir.path()).unwrap();
    let after = some_history(&mut rng, &mut file, &mut state);
    drop(file);
    let path = dir.path().join(NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = after[1].0 as usize;
    bytes[at + 20] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    match LedgerFile::open(dir.path()) {
        Err(LedgerError::Damaged { at: found, .. }) => assert_eq!(found, at),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        std::fs::read(&path).unwrap(),
        bytes,
        "a damaged ledger was changed"
    );
}

#[test]
fn a_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = LedgerFile::open(dir.path()).unwrap();
    assert!(matches!(
        LedgerFile::open(dir.path()),
        Err(LedgerError::Locked { .. })
    ));
    drop(first);
    LedgerFile::open(dir.path()).unwrap();
}

#[test]
fn another_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(NAME), b"something else").unwrap();
    assert!(matches!(
        LedgerFile::open(dir.path()),
        Err(LedgerError::Unreadable { .. })
    ));
}
