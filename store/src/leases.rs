//! Leases as they are read.

use crate::{Store, StoreError};
use rhyzome_model::ids::ResourceId;
use std::net::Ipv4Addr;

/// A lease of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The network.
    pub network: ResourceId,
    /// Address.
    pub ip: Ipv4Addr,
    /// Lower case with colons.
    pub mac: String,
    /// A DNS label.
    pub hostname: Option<String>,
    /// The instance that it is for.
    pub instance: Option<ResourceId>,
    /// The interface's position in that instance.
    pub position: i32,
    /// Made for an instance; goes with it.
    pub automatic: bool,
}

impl Store {
    /// A page of a network's leases, by address, after one.
    pub async fn lease_list(
        &self,
        network: ResourceId,
        after: Option<Ipv4Addr>,
        limit: i64,
    ) -> Result<Vec<LeaseView>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT network_id, host(ip) AS "ip!", mac::text AS "mac!", hostname, instance_id, position, automatic FROM leases
               WHERE network_id = $1 AND ($2::text IS NULL OR ip > $2::text::inet) ORDER BY ip LIMIT $3"#,
            network.0,
            after.map(|a| a.to_string()),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                lease(
                    r.network_id,
                    &r.ip,
                    r.mac,
                    r.hostname,
                    r.instance_id,
                    r.position,
                    r.automatic,
                )
            })
            .collect()
    }

    /// The leases of instances, by instance and position.
    pub async fn leases_of(&self, instances: &[ResourceId]) -> Result<Vec<LeaseView>, StoreError> {
        let ids: Vec<uuid::Uuid> = instances.iter().map(|i| i.0).collect();
        let rows = sqlx::query!(
            r#"SELECT network_id, host(ip) AS "ip!", mac::text AS "mac!", hostname, instance_id, position, automatic FROM leases
               WHERE instance_id = ANY($1) ORDER BY instance_id, position"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                lease(
                    r.network_id,
                    &r.ip,
                    r.mac,
                    r.hostname,
                    r.instance_id,
                    r.position,
                    r.automatic,
                )
            })
            .collect()
    }
}

pub(crate) fn lease(
    network: uuid::Uuid,
    ip: &str,
    mac: String,
    hostname: Option<String>,
    instance: Option<uuid::Uuid>,
    position: i32,
    automatic: bool,
) -> Result<LeaseView, StoreError> {
    Ok(LeaseView {
        network: ResourceId(network),
        ip: ip
            .parse()
            .map_err(|e| StoreError::row("leases", format!("{ip}: {e}")))?,
        mac,
        hostname,
        instance: instance.map(ResourceId),
        position,
        automatic,
    })
}
