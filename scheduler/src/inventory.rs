//! Inventories of a watched host: asked for now and then, and kept with a moment before the agent began to look, by which the check of
//! the books knows what has moved since.

use crate::check::SHORTEST;
use crate::{Context, border};
use rhyzome_model::ids::HostName;
use rhyzome_proto::agent::agent_client::AgentClient;
use rhyzome_proto::agent::{Inventory, InventoryRequest};
use rhyzome_store::StoreError;
use serde_json::{Value, json};
use tonic::transport::Channel;

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Call(#[from] tonic::Status),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Asks for as long as the watch is held, so often that every check finds one that is younger than the last.
pub(crate) async fn keep_fresh(context: Context, host: HostName, channel: Channel) {
    let client = AgentClient::new(channel).max_decoding_message_size(64 << 20);
    let interval = context.config.check_interval.duration().max(SHORTEST);
    loop {
        // At a time of its own, so that many hosts are not asked together.
        tokio::time::sleep(interval.mul_f64(rand::random_range(0.4..0.9))).await;
        if let Err(error) = ask(&context, &host, client.clone()).await {
            tracing::debug!(%host, %error, "no inventory; it is asked for again");
        }
    }
}

async fn ask(context: &Context, host: &HostName, mut client: AgentClient<Channel>) -> Result<(), AskError> {
    let asked_at = context.store.now().await?;
    let request = InventoryRequest {
        host: host.to_string(),
    };
    let inventory = client.get_inventory(request).await?.into_inner();
    context
        .store
        .host_inventory(host, &document(&inventory), asked_at)
        .await?;
    Ok(())
}

/// As it is kept.
pub fn document(inventory: &Inventory) -> Value {
    let objects: Vec<Value> = inventory
        .objects
        .iter()
        .map(|o| {
            json!({ "kind": o.kind, "id": o.id, "state": o.state, "claims": o.claims, "generation": o.generation, "facts": o.facts })
        })
        .collect();
    let resources: Vec<Value> = inventory
        .resources
        .iter()
        .map(|r| json!({ "id": r.id, "fence": r.fence }))
        .collect();
    let jobs: Vec<Value> = inventory
        .jobs
        .iter()
        .map(|j| json!({ "id": j.id, "phase": j.phase }))
        .collect();
    border::document(
        json!({ "host": inventory.host, "epoch": inventory.epoch, "objects": objects, "resources": resources, "jobs": jobs }),
    )
}
