//! `rhyzome admin job`.

use anyhow::{Context, Result};
use rhyzome_model::ids::JobId;
use rhyzome_store::Store;
use rhyzome_store::rows::JobRow;
use rhyzome_store::settle::Abandoned;

use super::{actor, when};
use crate::args::AdminJobTask;
use crate::output::{self, Row};

/// Performs one of its tasks.
pub(crate) async fn run(store: &Store, task: &AdminJobTask) -> Result<()> {
    match task {
        AdminJobTask::Show { id, output } => {
            let job = store
                .job_get(JobId(*id))
                .await?
                .with_context(|| format!("there is no job {id}"))?;
            output::one(&job, output.output)?;
        }
        AdminJobTask::Abandon { id } => {
            let end = store.job_abandon(JobId(*id), &actor()).await?;
            println!("job {id} is {}", end.state);
            if let Some(host) = end.host {
                println!(
                    "{} {} keeps what it holds on {host} until nothing of it is there",
                    end.kind, end.resource
                );
            }
        }
        AdminJobTask::Abandoned { output } => {
            output::list(&store.abandoned(None).await?, output.output)?;
        }
    }
    Ok(())
}

impl Row for JobRow {
    const HEADS: &'static [&'static str] = &[
        "ID",
        "TENANT",
        "KIND",
        "TARGET",
        "STATE",
        "MODE",
        "HOST",
        "ATTEMPT",
        "WAITING_ON",
        "ERROR",
    ];

    fn cells(&self) -> Vec<String> {
        let waiting = self.waiting.as_ref();
        let error = self.error.as_ref();
        vec![
            self.id.to_string(),
            self.tenant.to_string(),
            format!("{}.{}", self.kind, self.action),
            format!("{} ({})", self.resource_name, self.resource_id),
            self.state.to_string(),
            self.mode.to_string(),
            self.host.as_ref().map(ToString::to_string).unwrap_or_default(),
            self.attempt.to_string(),
            waiting
                .map(|w| format!("{}: {}", w.reason, w.detail))
                .unwrap_or_default(),
            error
                .map(|e| format!("{}: {}", e.code, e.detail))
                .unwrap_or_default(),
        ]
    }
}

impl Row for Abandoned {
    const HEADS: &'static [&'static str] = &["JOB", "TENANT", "RESOURCE", "HOST", "AT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.job.to_string(),
            self.tenant.to_string(),
            self.resource.to_string(),
            self.host.to_string(),
            when(self.at),
        ]
    }
}
