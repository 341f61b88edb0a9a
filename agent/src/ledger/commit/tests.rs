use super::*;
use crate::ledger::record::Accepted;
use rhyzome_model::ids::{Epoch, Fence, JobId, ResourceId};

fn host() -> HostName {
    "sim-1".into()
}

fn begin() -> Change {
    let accepted = Accepted {
        job: JobId::new(),
        resource: ResourceId::new(),
        fence: Fence(1),
        hashes: vec![[0; 32]],
    };
    Change::Begin(accepted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_waited_for_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(dir.path(), &[host()]).unwrap());
    let id = ledger.with(|tx| tx.host(&host()).map(|h| h.ledger_id));
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                let ticket = ledger.with(|tx| {
                    tx.write(&host(), &begin());
                    tx.ticket()
                });
                ticket.durable().await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // Not closed: a copy of the file as a crash would leave it.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("ledger"), copy.path().join("ledger")).unwrap();
    let again = Ledger::open(copy.path(), &[host()]).unwrap();
    again.with(|tx| {
        let state = tx.host(&host()).unwrap();
        assert_eq!(state.jobs.len(), 200);
        assert_eq!(Some(state.ledger_id), id);
    });
}

#[tokio::test]
async fn a_change_that_nobody_waits_for_is_written_on_close() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[host()]).unwrap();
    ledger.with(|tx| tx.write(&host(), &Change::Epoch(Epoch(4))));
    drop(ledger);
    let again = Ledger::open(dir.path(), &[host()]).unwrap();
    assert_eq!(again.with(|tx| tx.host(&host()).map(|h| h.epoch)), Some(Epoch(4)));
}

#[tokio::test]
async fn a_closed_ledger_promises_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[host()]).unwrap();
    ledger.close();
    let ticket = ledger.with(|tx| {
        tx.write(&host(), &begin());
        tx.ticket()
    });
    assert!(matches!(ticket.durable().await, Err(LedgerError::Closed)));
}

#[tokio::test]
async fn nothing_to_wait_for_is_ready_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[host()]).unwrap();
    let ticket = ledger.with(|tx| {
        assert!(tx.host(&host()).is_some());
        tx.ticket()
    });
    ticket.durable().await.unwrap();
}

#[tokio::test]
async fn a_new_host_of_an_old_ledger_gets_an_id_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let other: HostName = "sim-2".into();
    drop(Ledger::open(dir.path(), &[host()]).unwrap());
    let ledger = Ledger::open(dir.path(), &[host(), other.clone()]).unwrap();
    ledger.with(|tx| {
        let ids = (
            tx.host(&host()).unwrap().ledger_id,
            tx.host(&other).unwrap().ledger_id,
        );
        assert_ne!(ids.0, ids.1);
    });
}

/// Set in the process that the test below starts from itself.
const ALONE: &str = "RHYZOME_TEST_LEDGER_PANICS";

#[tokio::test]
async fn a_panic_of_the_writer_ends_the_process_and_leaves_nobody_waiting() {
    const THIS: &str =
        "ledger::commit::tests::a_panic_of_the_writer_ends_the_process_and_leaves_nobody_waiting";
    if std::env::var_os(ALONE).is_none() {
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args([THIS, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(part::STATUS), "{ended:?}");
        assert!(
            String::from_utf8_lossy(&ended.stderr).contains("of a fault"),
            "{ended:?}"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(State::default(), Vec::new());
    let for_writer = shared.clone();
    let writer = writer(dir.path(), move || {
        drop(wait_for_work(&for_writer));
        panic!("of a fault");
    });
    let ledger = Ledger {
        shared,
        writer: Mutex::new(Some(writer.unwrap())),
    };
    let ticket = ledger.with(|tx| {
        tx.write(&host(), &begin());
        tx.ticket()
    });
    let waited = tokio::time::timeout(Duration::from_secs(20), ticket.durable()).await;
    // Only in a process that should have ended; the test's harness catches no exit.
    eprintln!("the process goes on: {waited:?}");
    std::process::exit(0);
}
