//! A resource as users read it.

use super::Reader;
use crate::apart::{self, Gone};
use chrono::{DateTime, SecondsFormat, Utc};
use rhyzome_model::ids::{HostName, JobId, ResourceId};
use rhyzome_model::job::{Action, JobState};
use rhyzome_model::kinds::{ImageStatus, InstanceStatus, Kind, NetworkStatus, Power};
use rhyzome_model::shown::{ObservedPower, ResourceState, ShownInput, shown};
use rhyzome_store::rows::ResourceRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A resource.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ResourceDoc<'a> {
    /// UUIDv7, made by the server.
    #[schema(value_type = uuid::Uuid)]
    id: ResourceId,
    /// Which kind.
    kind: Kind,
    /// Whose.
    tenant: &'a str,
    /// A DNS label, unique per tenant and kind.
    name: &'a str,
    /// Of the user.
    tags: &'a BTreeMap<String, String>,
    /// Raised with every change of intent.
    generation: i64,
    /// The generation that was last made so.
    observed_generation: i64,
    /// What is there or not.
    state: ResourceState,
    /// Why the last change failed, or the state is `crashed` or `unknown`.
    reason: Option<Reason<'a>>,
    /// As asked for.
    #[schema(value_type = Object)]
    spec: Cow<'a, Value>,
    /// As seen.
    #[schema(value_type = Object)]
    status: Value,
    /// The job that is first on it.
    #[schema(value_type = Option<uuid::Uuid>)]
    active_job: Option<JobId>,
    /// Accepted.
    created_at: DateTime<Utc>,
    /// Intent or status last changed.
    updated_at: DateTime<Utc>,
}

/// Why a resource failed, or its last change, or is `crashed` or `unknown`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = FailureReason)]
pub struct Reason<'a> {
    /// Stable.
    code: &'a str,
    /// A sentence.
    detail: Cow<'a, str>,
    /// The job that failed; null where none did.
    #[schema(value_type = Option<uuid::Uuid>)]
    job: &'a Value,
}

/// What a document needs beside the row.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Addresses of an instance, by interface.
    pub addresses: Vec<Ipv4Addr>,
    /// The host that a network lives on.
    pub host: Option<HostName>,
    /// What that host says of it: `namespace`, `networking`.
    pub facts: Option<Value>,
    /// What it is kept apart from and is gone, so that it isn't shown.
    pub gone: Gone,
    /// Of what is tried dry: where no job is open, it is shown as if one for this were.
    pub would: Option<Action>,
}

/// The strong tag over a resource's intent.
pub fn etag(row: &ResourceRow) -> String {
    format!("\"g{}\"", row.generation)
}

/// The state of a row.
pub fn state(row: &ResourceRow) -> ResourceState {
    state_with(row, open_job(row))
}

fn open_job(row: &ResourceRow) -> Option<(Action, JobState)> {
    row.active_job.map(|job| (job.action, job.state))
}

fn state_with(row: &ResourceRow, active_job: Option<(Action, JobState)>) -> ResourceState {
    shown(&ShownInput {
        kind: row.kind,
        generation: row.generation,
        applied: row.applied.is_some(),
        deleting: row.deleting,
        active_job,
        failed: row.reason.is_some(),
        observed: row
            .unheard_since
            .map_or_else(|| observed_power(row), |_| Some(ObservedPower::Unknown)),
        power: row
            .applied
            .as_ref()
            .and_then(|applied| applied.get("power"))
            .and_then(|power| Power::deserialize(power).ok()),
    })
}

fn observed_power(row: &ResourceRow) -> Option<ObservedPower> {
    row.observed
        .as_ref()?
        .get("power")?
        .as_str()
        .and_then(ObservedPower::parse)
}

/// The document of a row.
pub fn document<'a>(row: &'a ResourceRow, beside: &Beside, reader: Reader) -> ResourceDoc<'a> {
    let state = state_with(
        row,
        open_job(row).or(beside.would.map(|action| (action, JobState::Queued))),
    );
    ResourceDoc {
        id: row.id,
        kind: row.kind,
        tenant: row.tenant.as_str(),
        name: &row.name,
        tags: &row.tags,
        generation: row.generation,
        observed_generation: row.observed_generation,
        state,
        reason: unheard(row, state, reader)
            .or_else(|| row.reason.as_ref().map(reason))
            .or_else(|| crashed(row)),
        spec: apart::without(&row.spec, &beside.gone),
        status: status(row, beside, reader),
        active_job: row.active_job.map(|job| job.id),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

fn reason(value: &Value) -> Reason<'_> {
    let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
    Reason {
        code: text("code"),
        detail: text("detail").into(),
        job: value.get("job").unwrap_or(&Value::Null),
    }
}

/// Why a guest is not running that should, as its host says.
fn crashed(row: &ResourceRow) -> Option<Reason<'_>> {
    let detail = row.observed.as_ref()?.get("detail")?.as_str()?;
    (state(row) == ResourceState::Crashed && !detail.is_empty()).then_some(Reason {
        code: "GUEST_CRASHED",
        detail: detail.into(),
        job: &Value::Null,
    })
}

/// Why nobody knows how a guest is: before whatever else there is to say of it. Hosts' names are for operators.
fn unheard(row: &ResourceRow, state: ResourceState, reader: Reader) -> Option<Reason<'static>> {
    let since = row.unheard_since.filter(|_| state == ResourceState::Unknown)?;
    let host = match (reader, &row.host) {
        (Reader::Operator, Some(host)) => format!("Its host {host}"),
        (Reader::Operator, None) | (Reader::Tenant, _) => "Its host".to_owned(),
    };
    let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
    Some(Reason {
        code: "HOST_UNREACHABLE",
        detail: format!("{host} can't be reached: nothing was heard of it since {since}.").into(),
        job: &Value::Null,
    })
}

/// What is seen of it. Hosts are for operators.
fn status(row: &ResourceRow, beside: &Beside, reader: Reader) -> Value {
    let host = row
        .host
        .clone()
        .or_else(|| beside.host.clone())
        .filter(|_| reader == Reader::Operator);
    match row.kind {
        Kind::Network => with_facts(value(&NetworkStatus { host }), beside.facts.as_ref(), reader),
        Kind::Image => {
            let facts = row.facts.clone().unwrap_or_default();
            value(&ImageStatus {
                host,
                ..ImageStatus::deserialize(facts).unwrap_or_default()
            })
        }
        Kind::Instance => value(&instance(row, beside, host)),
    }
}

fn instance(row: &ResourceRow, beside: &Beside, host: Option<HostName>) -> InstanceStatus {
    let metrics = row
        .observed
        .as_ref()
        .and_then(|o| o.get("metrics"))
        .cloned()
        .unwrap_or_default();
    InstanceStatus {
        host,
        addresses: beside.addresses.clone(),
        power: observed_power(row),
        observed_at: row.observed_at,
        metrics: BTreeMap::deserialize(metrics).unwrap_or_default(),
    }
}

/// A network's status with what its host says of it: where it lives is for operators, how it is connected for all.
fn with_facts(mut status: Value, facts: Option<&Value>, reader: Reader) -> Value {
    let shown: &[&str] = match reader {
        Reader::Tenant => &["networking", "detail"],
        Reader::Operator => &["networking", "detail", "namespace"],
    };
    if let (Value::Object(fields), Some(facts)) = (&mut status, facts) {
        let seen = shown
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), facts.get(*name)?.clone())));
        fields.extend(seen);
    }
    status
}

/// Our own status types always serialise.
fn value(status: &impl Serialize) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Beside, Reader, document, etag};
    use chrono::{DateTime, Utc};
    use rhyzome_model::ids::{HostName, JobId, ResourceId, TenantId};
    use rhyzome_model::job::{Action, JobState};
    use rhyzome_model::kinds::Kind;
    use rhyzome_store::rows::{ActiveJob, ResourceRow};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    pub(crate) fn row(kind: Kind, spec: Value) -> ResourceRow {
        let at = DateTime::<Utc>::from_timestamp(1_700_000_000, 5_000).unwrap();
        ResourceRow {
            id: ResourceId::new(),
            tenant: TenantId::from("demo"),
            kind,
            name: "web-1".to_owned(),
            tags: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            spec,
            generation: 3,
            deleting: false,
            public: false,
            applied: None,
            observed_generation: 0,
            facts: None,
            observed: None,
            observed_at: None,
            reason: None,
            host: Some(HostName::from("host-1")),
            unheard_since: None,
            in_quarantine: false,
            created_at: at,
            updated_at: at,
            active_job: None,
        }
    }

    #[test]
    fn has_every_field_and_no_other() {
        let row = row(Kind::Network, json!({"cidr": "10.0.0.0/24"}));
        let doc = serde_json::to_value(document(&row, &Beside::default(), Reader::Tenant)).unwrap();
        let mut names: Vec<&str> = doc.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let want = [
            "active_job",
            "created_at",
            "generation",
            "id",
            "kind",
            "name",
            "observed_generation",
            "reason",
            "spec",
            "state",
            "status",
            "tags",
            "tenant",
            "updated_at",
        ];
        assert_eq!(names, want);
        assert_eq!(doc["created_at"], "2023-11-14T22:13:20.000005Z");
        assert_eq!(doc["state"], "failed");
    }

    #[test]
    fn hosts_are_for_operators() {
        let mut row = row(Kind::Instance, json!({}));
        row.applied = Some(json!({"power": "on"}));
        row.observed = Some(json!({"power": "on", "metrics": {"cpu": 0.5}}));
        let beside = Beside {
            addresses: vec!["10.20.0.7".parse().unwrap()],
            ..Beside::default()
        };
        let tenant = serde_json::to_value(document(&row, &beside, Reader::Tenant)).unwrap();
        let operator = serde_json::to_value(document(&row, &beside, Reader::Operator)).unwrap();
        assert!(!tenant.to_string().contains("host-1"));
        assert_eq!(operator["status"]["host"], "host-1");
        assert_eq!(tenant["status"]["addresses"], json!(["10.20.0.7"]));
        assert_eq!(
            (&tenant["state"], &tenant["status"]["metrics"]["cpu"]),
            (&json!("running"), &json!(0.5))
        );
    }

    #[test]
    fn a_networks_namespace_is_for_operators() {
        let row = row(Kind::Network, json!({}));
        let facts = json!({"namespace": "rz-abc", "networking": "user"});
        let beside = Beside {
            facts: Some(facts),
            ..Beside::default()
        };
        let tenant = serde_json::to_value(document(&row, &beside, Reader::Tenant)).unwrap();
        let operator = serde_json::to_value(document(&row, &beside, Reader::Operator)).unwrap();
        assert_eq!(tenant["status"], json!({"networking": "user"}));
        assert_eq!(operator["status"]["namespace"], "rz-abc");
    }

    #[test]
    fn progress_never_changes_the_etag() {
        let mut row = row(Kind::Image, json!({}));
        let before = etag(&row);
        row.applied = Some(json!({}));
        row.observed_generation = 3;
        row.active_job = Some(ActiveJob {
            id: JobId::new(),
            action: Action::Update,
            state: JobState::Running,
        });
        assert_eq!(etag(&row), before);
        row.generation = 4;
        assert_ne!(etag(&row), before);
    }
}
