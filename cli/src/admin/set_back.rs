//! `rhyzome admin postgres-set-back`.

use anyhow::{Result, bail};
use rhyzome_store::Store;
use rhyzome_store::set_back::SetBack;

use super::{actor, when};
use crate::args::SetBackTask;
use crate::output::{self, Row};

/// Performs one of its tasks.
pub(crate) async fn run(store: &Store, task: &SetBackTask) -> Result<()> {
    match task {
        SetBackTask::Show { output } => output::list(&store.set_backs().await?, output.output)?,
        SetBackTask::Clear => {
            if store.set_backs().await?.is_empty() {
                bail!("no agent knows more than the database: there is nothing to clear");
            }
            let last = store.set_back_clear(&actor()).await?;
            println!("fences go on above {last}; each host is greeted again before anything goes to it");
        }
    }
    Ok(())
}

impl Row for SetBack {
    const HEADS: &'static [&'static str] = &["HOST", "SEEN", "LAST", "AT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.host.to_string(),
            self.seen.to_string(),
            self.last.to_string(),
            when(self.at),
        ]
    }
}
