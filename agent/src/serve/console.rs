//! A guest's console as a stream: its last lines, then what comes.

use crate::driver::{ConsolePart, Driver, StepError};
use rhyzome_model::ids::{HostName, ResourceId};
use rhyzome_proto::agent::ConsoleChunk;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Bytes of one message.
const CHUNK: usize = 64 << 10;
const POLL: Duration = Duration::from_millis(250);
/// The most lines that are told at once.
pub(super) const MOST_LINES: usize = 10_000;

type Out = mpsc::Sender<Result<ConsoleChunk, Status>>;

/// Whose console, and until when.
pub(super) struct Console {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) host: HostName,
    pub(super) instance: ResourceId,
    pub(super) shutdown: CancellationToken,
}

impl Console {
    /// The last lines, and where following goes on; no place where it can't be followed.
    pub(super) async fn tail(
        &self,
        lines: usize,
    ) -> Result<Option<(Vec<u8>, Option<ConsolePart>)>, StepError> {
        let end = self.driver.console_part(&self.host, self.instance, None).await?;
        let Some(tail) = self.driver.console_tail(&self.host, self.instance, lines).await? else {
            return Ok(None);
        };
        let Some(end) = end else {
            return Ok(Some((tail, None)));
        };
        // What came between the two looks is in both.
        let part = self
            .driver
            .console_part(&self.host, self.instance, Some(end.next))
            .await?;
        let rest = part.map(|part| {
            let told = (0..=part.data.len())
                .rev()
                .find(|n| tail.ends_with(&part.data[..*n]))
                .unwrap_or_default();
            ConsolePart {
                data: part.data[told..].to_vec(),
                next: part.next,
            }
        });
        Ok(Some((tail, rest)))
    }

    /// Sends the tail, then, if it is followed, what comes.
    pub(super) async fn tell(self, tail: Vec<u8>, followed: Option<ConsolePart>, out: Out) {
        if !send(&out, &tail).await {
            return;
        }
        let Some(mut part) = followed else { return };
        loop {
            if !send(&out, &part.data).await {
                return;
            }
            if part.data.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = out.closed() => return,
                    () = self.shutdown.cancelled() => return,
                }
            }
            match self
                .driver
                .console_part(&self.host, self.instance, Some(part.next))
                .await
            {
                Ok(Some(next)) => part = next,
                Ok(None) => return,
                Err(error) => {
                    // The caller may be gone too.
                    let _ = out.send(Err(Status::unavailable(error.detail))).await;
                    return;
                }
            }
        }
    }
}

async fn send(out: &Out, data: &[u8]) -> bool {
    for chunk in data.chunks(CHUNK) {
        if out.send(Ok(ConsoleChunk { data: chunk.to_vec() })).await.is_err() {
            return false;
        }
    }
    true
}
