//! A ledger without file and thread: who made it takes the bytes and says when they are safe. For simulations, in which a disk, and
//! when it is written, are the dice's. State, bytes and recovery are those of every ledger.

use super::{Ledger, Shared, locked};
use crate::ledger::codec;
use crate::ledger::file::LedgerError;
use crate::ledger::record::Change;
use crate::ledger::state::State;
use rhyzome_model::ids::HostName;
use std::path::PathBuf;
use std::sync::Mutex;
use uuid::Uuid;

/// Whether anything waits to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// Nothing.
    Nothing,
    /// Something that nobody waits for.
    Lazy,
    /// Something that is waited for.
    Urgent,
}

impl Ledger {
    /// A ledger of what was written before: the bytes of [`Self::write_held`], in order. Hosts that these don't name are new, each with
    /// the ledger id that it comes with.
    ///
    /// # Errors
    /// The bytes are no ledger's.
    pub fn held(bytes: &[u8], hosts: &[(HostName, Uuid)]) -> Result<Self, LedgerError> {
        let mut state = State::default();
        let changes = codec::decode(bytes).map_err(|e| LedgerError::Unreadable {
            path: PathBuf::new(),
            detail: e.to_string(),
        })?;
        for (host, change) in &changes {
            state.apply(host, change);
        }
        let mut queued = Vec::new();
        for (host, ledger_id) in hosts {
            if !state.hosts.contains_key(host) {
                let change = Change::Host {
                    ledger_id: *ledger_id,
                };
                state.apply(host, &change);
                codec::encode(&mut queued, host, &change);
            }
        }
        Ok(Self {
            shared: Shared::new(state, queued),
            writer: Mutex::new(None),
        })
    }

    /// Whether there is something to write.
    pub fn queued(&self) -> Queued {
        let inner = locked(&self.shared);
        match (inner.queued.is_empty(), inner.hurry) {
            (true, _) => Queued::Nothing,
            (false, false) => Queued::Lazy,
            (false, true) => Queued::Urgent,
        }
    }

    /// Hands what is queued to `write`; when that returns it is durable, and who waits for it goes on.
    pub fn write_held(&self, write: impl FnOnce(&[u8])) {
        let (bytes, batch) = {
            let mut inner = locked(&self.shared);
            inner.hurry = false;
            (
                std::mem::take(&mut inner.queued),
                std::mem::take(&mut inner.batch),
            )
        };
        write(&bytes);
        // Nobody else sets a batch of a ledger without a thread.
        let _ = batch.set(Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::ids::Epoch;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn what_was_written_is_there_again_and_the_rest_is_not() {
        let host = HostName::from("h");
        let hosts = [(host.clone(), Uuid::nil())];
        let mut disk = Vec::new();
        let ledger = Ledger::held(&disk, &hosts).unwrap();
        let ticket = ledger.with(|tx| {
            tx.write(&host, &Change::Epoch(Epoch(1)));
            tx.ticket()
        });
        assert_eq!(ledger.queued(), Queued::Urgent);
        let mut durable = pin!(ticket.durable());
        let mut context = Context::from_waker(Waker::noop());
        assert!(durable.as_mut().poll(&mut context).is_pending());
        ledger.write_held(|bytes| disk.extend_from_slice(bytes));
        assert!(durable.as_mut().poll(&mut context).is_ready());

        ledger.with(|tx| tx.write(&host, &Change::Epoch(Epoch(2))));
        assert_eq!(ledger.queued(), Queued::Lazy);
        let again = Ledger::held(&disk, &hosts).unwrap();
        assert_eq!(again.queued(), Queued::Nothing);
        assert_eq!(again.with(|tx| tx.host(&host).map(|h| h.epoch)), Some(Epoch(1)));
    }
}
