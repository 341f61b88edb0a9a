//! Hears change notices, and tells who waits for a job and who watches. Without them both look at times regardless.

use crate::events::Seats;
use crate::wait::JobWatch;
use rhyzome_model::ids::JobId;
use rhyzome_nats::Connection;
use rhyzome_nats::notices::Changes;
use rhyzome_runtime::part;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Begins; ends with the token.
pub fn spawn(nats: Connection, jobs: JobWatch, events: Seats, token: CancellationToken) {
    part::spawn(
        "heard changes",
        token.run_until_cancelled_owned(listen(nats, jobs, events)),
    );
}

async fn listen(nats: Connection, jobs: JobWatch, events: Seats) {
    loop {
        match Changes::of_all(&nats).await {
            Ok(mut changes) => {
                while let Some(change) = changes.next().await {
                    if change.kind == "job" {
                        jobs.heard(JobId(change.id));
                    }
                    events.heard();
                }
            }
            Err(error) => tracing::warn!(%error, "change notices can't be heard, the poll goes on"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
