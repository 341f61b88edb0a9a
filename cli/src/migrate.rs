//! `rhyzome migrate`: brings the database's schema up to date.

use anyhow::{Context, Result};

use crate::args::{Configured, DataArgs};
use crate::settings::Layers;

/// Runs the migrations that are missing.
pub(crate) async fn run(configured: &Configured, args: &DataArgs) -> Result<()> {
    let settings = Layers::of_data(configured, args.data.as_deref())?.load()?;
    let store = settings
        .database
        .connect()
        .await
        .context("connecting to the database")?;
    store.migrate().await.context("migrating the database")?;
    println!("the database is up to date");
    Ok(())
}
