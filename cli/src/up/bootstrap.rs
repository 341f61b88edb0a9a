//! What a stack has from its first moment: configuration, certificates, schema, tenants with issuers, hosts.
//!
//! All of it can be done again, and changes nothing then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rhyzome_model::ids::{HostName, TenantId};
use rhyzome_runtime::config::{Sources, file_of};
use rhyzome_runtime::pki::Ca;
use rhyzome_store::hosts::HostError;
use rhyzome_store::tenants::{Issuer, TenantError};
use rhyzome_store::{DatabaseConfig, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use toml::{Table, Value};

use super::keep::say;
use super::layout::Layout;
use super::parts::Plan;
use crate::args::Configured;
use crate::issuer::{AUDIENCE, OPERATORS, keys};
use crate::settings::Layers;

/// Tenants that every stack has.
const TENANTS: [&str; 2] = ["demo", "other"];
const AGAIN: Duration = Duration::from_millis(300);

/// Writes the configuration of all parts: what the ordinary configuration file says, and over it where things are here.
pub(crate) fn write_config(
    plan: &Plan,
    configured: &Configured,
    postgres_port: Option<u16>,
    nats_port: Option<u16>,
) -> Result<()> {
    let mut config = match file_of(&Sources::only(configured.config.clone(), Vec::new()))? {
        Some(path) => {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            text.parse::<Table>()
                .with_context(|| format!("{} isn't TOML", path.display()))?
        }
        None => Table::new(),
    };
    let layout = &plan.layout;
    let path = |path: &std::path::Path| Value::String(path.display().to_string());
    if let Some(port) = postgres_port {
        put(
            &mut config,
            "database",
            "url",
            Value::String(plan.postgres.url(port)),
        );
        put(&mut config, "database", "password_file", path(&layout.password()));
    }
    if let Some(port) = nats_port {
        put(
            &mut config,
            "nats",
            "url",
            Value::String(format!("tls://127.0.0.1:{port}")),
        );
    }
    put(&mut config, "tls", "pki", path(&layout.pki()));
    if let Some(dir) = plan.image_dir() {
        put(&mut config, "agent", "image_dir", path(dir));
    }
    let text = format!(
        "# Written by `rhyzome up` at every start.\n{}",
        toml::to_string_pretty(&config)?
    );
    rhyzome_runtime::ready::write_atomically(&layout.config(), text.as_bytes())
        .context("writing the configuration")
}

fn put(config: &mut Table, section: &str, key: &str, value: Value) {
    let section = config
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.to_owned(), value);
    }
}

/// Makes the certificates that are missing or about to expire.
pub(crate) fn certificates(plan: &Plan) -> Result<()> {
    let ca = Ca::open_or_init(&plan.layout.pki())?;
    for (role, name) in plan.identities() {
        ca.ensure(role, &name)?;
    }
    Ok(())
}

/// The keys of the issuers.
pub(crate) fn issuer_keys(layout: &Layout) -> Result<()> {
    for issuer in TENANTS.into_iter().chain([OPERATORS]) {
        keys::ensure(&keys::folder(layout.root()), issuer)?;
    }
    Ok(())
}

/// The database's section as the parts read it.
pub(crate) fn database(layout: &Layout) -> Result<DatabaseConfig> {
    Ok(Layers::of_data(&Configured::default(), Some(layout.root()))?
        .load()?
        .database)
}

/// Brings the schema up to date, and makes tenants and issuers.
pub(crate) async fn tenants(store: &Store, issuer_url: &str) -> Result<()> {
    store.migrate().await.context("migrating the database")?;
    for tenant in TENANTS {
        let id = TenantId(tenant.to_owned());
        match store.tenant_create(&id, None, &BTreeMap::new()).await {
            Ok(()) | Err(TenantError::Exists(_)) => {}
            Err(error) => return Err(error).with_context(|| format!("making the tenant {tenant}")),
        }
        bind(store, issuer_url, tenant, id).await?;
    }
    bind(
        store,
        issuer_url,
        OPERATORS,
        TenantId(TenantId::SYSTEM.to_owned()),
    )
    .await
}

async fn bind(store: &Store, base: &str, name: &str, tenant: TenantId) -> Result<()> {
    let operators = name == OPERATORS;
    let issuer = Issuer {
        url: format!("{base}/{name}"),
        audience: AUDIENCE.to_owned(),
        tenant,
        operators,
    };
    store
        .issuer_bind(&issuer)
        .await
        .with_context(|| format!("binding the issuer {}", issuer.url))
}

/// Sees to it that these hosts are known at the address that their agent has last; tries until it is so, or the part is stopped. One at
/// a time, so that an address of before is never written after it.
pub(crate) async fn keep_hosts(
    layout: Layout,
    hosts: Vec<String>,
    addresses: watch::Receiver<Option<SocketAddr>>,
    stop: CancellationToken,
) {
    let known = Arc::new((layout, hosts));
    let know = |address| {
        let known = Arc::clone(&known);
        async move { know_hosts(&known.0, &known.1, address).await }
    };
    stop.run_until_cancelled(keep_known(addresses, know)).await;
}

async fn keep_known<F: Future<Output = Result<()>>>(
    mut addresses: watch::Receiver<Option<SocketAddr>>,
    know: impl Fn(SocketAddr) -> F,
) {
    // The part is over when nobody can say another.
    while addresses.changed().await.is_ok() {
        let mut complained = None;
        loop {
            let Some(address) = *addresses.borrow_and_update() else {
                break;
            };
            let Err(error) = know(address).await else { break };
            if complained.replace(address) != Some(address) {
                say(&format!(
                    "the hosts of the agent at {address} can't be told to the database yet: {error:#}"
                ));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn know_hosts(layout: &Layout, hosts: &[String], address: SocketAddr) -> Result<()> {
    let store = database(layout)?.store()?;
    let address = address.to_string();
    let known: BTreeMap<String, String> = store
        .host_list()
        .await?
        .into_iter()
        .map(|host| (host.name.to_string(), host.address))
        .collect();
    for host in hosts {
        let name = HostName(host.clone());
        match known.get(host) {
            Some(former) if *former == address => {}
            Some(_) => store.host_set_address(&name, &address).await?,
            None => match store.host_add(&name, &address).await {
                Ok(()) => {}
                Err(HostError::Exists(_)) => store.host_set_address(&name, &address).await?,
                Err(error) => return Err(error.into()),
            },
        }
    }
    Ok(())
}

/// Which of these hosts no scheduler watches.
pub(crate) async fn unwatched(store: &Store, hosts: &[String]) -> Result<Vec<String>> {
    let up: Vec<String> = store
        .host_list()
        .await?
        .into_iter()
        .filter(|host| host.up)
        .map(|host| host.name.to_string())
        .collect();
    Ok(hosts.iter().filter(|host| !up.contains(host)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::Mutex;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn the_address_that_an_agent_had_before_is_never_written_last() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, addresses) = watch::channel(None);
        let (begun, slow) = (Notify::new(), Notify::new());
        let written = Mutex::new(Vec::new());
        let know = |address: SocketAddr| {
            let (begun, slow, written) = (&begun, &slow, &written);
            async move {
                if address == at(1) {
                    begun.notify_one();
                    slow.notified().await;
                }
                let mut written = written.lock().unwrap();
                written.push(address);
                // The first try of the newest fails, too.
                if written.len() == 2 {
                    bail!("no database");
                }
                Ok(())
            }
        };
        let agent = async {
            address.send_replace(Some(at(1)));
            begun.notified().await;
            address.send_replace(Some(at(2)));
            slow.notify_one();
            while written.lock().unwrap().len() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(address);
        };
        tokio::join!(keep_known(addresses, know), agent);
        assert_eq!(*written.lock().unwrap(), [at(1), at(2), at(2)]);
    }
}
