//! An API on a Postgres of its own, with two tenants and operators.

#![allow(unreachable_pub, reason = "of one test binary")]

use crate::common::{Answer, Api, LocalIssuer};
use rhyzome_testkit::database::Database;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub struct World {
    pub api: Api,
    pub demo: LocalIssuer,
    pub other: LocalIssuer,
    pub operators: LocalIssuer,
    pub token: String,
    pub database: Database,
}

impl World {
    pub async fn new() -> Self {
        let database = Database::fresh().await;
        let store = database.store(8).await;
        let (demo, other, operators) = (
            LocalIssuer::start().await,
            LocalIssuer::start().await,
            LocalIssuer::start().await,
        );
        for issuer in [demo.bound("demo"), other.bound("other")] {
            store
                .tenant_create(&issuer.tenant, Some(&issuer), &BTreeMap::new())
                .await
                .unwrap();
        }
        store.issuer_bind(&operators.bound("system")).await.unwrap();
        let issuers = store.issuer_list().await.unwrap();
        let token = demo.token("*:*");
        Self {
            api: Api::new(store, issuers),
            demo,
            other,
            operators,
            token,
            database,
        }
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.api.call(&self.token, method, path, body).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn network(&self, name: &str) -> String {
        let made = self.post("/v1/networks", network(name)).await;
        assert_eq!(made.status, 202, "{}", made.body);
        text(&made.body["resource"]["id"])
    }

    pub async fn image(&self) -> String {
        let operator = self.operators.token("operator *:*");
        let body = json!({"name": "tiny", "spec": {"source": {"file": "tiny.qcow2"}, "format": "qcow2", "visibility": "public"}});
        let made = self.api.call(&operator, "POST", "/v1/images", Some(body)).await;
        assert_eq!(made.status, 202, "{}", made.body);
        text(&made.body["resource"]["id"])
    }

    /// Every job has succeeded.
    pub async fn all_done(&self) {
        self.database.execute(
            "UPDATE resources SET applied = spec, observed_generation = generation;
             DELETE FROM job_resources;
             UPDATE jobs SET state = 'succeeded', due = NULL, ended_at = now(), waiting = NULL WHERE ended_at IS NULL",
        )
        .await;
    }
}

pub fn network(name: &str) -> Value {
    json!({"name": name, "tags": {"env": "dev"}, "spec": {"cidr": "10.20.0.0/29"}})
}

pub fn instance(name: &str, network: &str) -> Value {
    json!({"name": name, "spec": {"vcpus": 1, "memory_mib": 128, "image": "tiny", "interfaces": [{"network": network}]}})
}

pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

pub fn refused(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), text(&answer.body["code"]))
}

pub fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
