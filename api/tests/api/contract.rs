//! Every answer that these tests get is held against `/openapi.json`: its status, its media type, and its document against the schema.

use crate::world::{World, instance, network, text};
use http::{Method, StatusCode};
use rhyzome_api::routes::{openapi, table};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Words of a schema that say nothing of whether a document is right, or nothing that is looked at here.
const WORDS_ONLY: [&str; 8] = [
    "description",
    "examples",
    "default",
    "minimum",
    "maximum",
    "maxLength",
    "maxProperties",
    "pattern",
];

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| openapi::document(&table::endpoints()))
}

/// An answer is one that the document has of the request.
pub(crate) fn holds(method: &Method, path: &str, status: StatusCode, media_type: &str, body: &Value) {
    let about = format!("{method} {path}: {status}");
    let media_type = media_type.split(';').next().unwrap_or_default();
    let Some(operation) = operation(method, path) else {
        assert_eq!(media_type, "application/problem+json", "{about}");
        return right("Problem", body);
    };
    let responses = &operation["responses"];
    let response = match responses.get(status.as_str()) {
        Some(response) => response,
        None => resolved(&responses["default"]),
    };
    let schema = if media_type == "application/problem+json" {
        // Whatever else is said of a status, a problem may come with it.
        &resolved(&responses["default"])["content"][media_type]["schema"]
    } else {
        &response["content"][media_type]["schema"]
    };
    assert!(schema.is_object(), "{about}: {media_type} is not in {response}");
    let faults = faults(schema, body, "");
    assert!(faults.is_empty(), "{about}: {faults:#?} in {body:#}");
}

/// A document is one of a schema by its name.
fn right(schema: &str, document: &Value) {
    let found = faults(
        &json!({ "$ref": format!("#/components/schemas/{schema}") }),
        document,
        "",
    );
    assert!(found.is_empty(), "{schema}: {found:#?} in {document:#}");
}

fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let same = |template: &str| {
        let (there, here) = (template.split('/'), path.split('/'));
        there.clone().count() == here.clone().count()
            && there.zip(here).all(|(t, h)| t == h || t.starts_with('{'))
    };
    let paths = document()["paths"].as_object()?;
    let (_, found) = paths.iter().find(|(template, _)| same(template))?;
    found.get(method.as_str().to_lowercase())
}

fn resolved(value: &Value) -> &Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(to) => document().pointer(to.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let words = schema
        .as_object()
        .unwrap_or_else(|| panic!("{at}: {schema} is no schema"));
    let mut found = Vec::new();
    for (word, says) in words {
        match word.as_str() {
            "$ref" => found.extend(faults(resolved(schema), value, at)),
            "type" => {
                let types: Vec<&str> = match says {
                    Value::Array(several) => several.iter().map(|t| t.as_str().unwrap()).collect(),
                    one => vec![one.as_str().unwrap()],
                };
                if !types.iter().any(|t| is(value, t)) {
                    found.push(format!("{at}: {value} is none of {types:?}"));
                }
            }
            "enum" if !says.as_array().unwrap().contains(value) => {
                found.push(format!("{at}: {value} is not in {says}"));
            }
            "format" if !parses(says.as_str().unwrap(), value) => {
                found.push(format!("{at}: {value} is no {says}"));
            }
            "enum" | "format" => {}
            "required" => {
                let names = says.as_array().unwrap().iter().map(|n| n.as_str().unwrap());
                let lacks = names.filter(|n| value.is_object() && value.get(n).is_none());
                found.extend(lacks.map(|name| format!("{at}: lacks {name}")));
            }
            "properties" => {
                for (name, schema) in says.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        found.extend(faults(schema, field, &format!("{at}/{name}")));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                let others = value.as_object().into_iter().flatten();
                for (name, field) in others.filter(|(n, _)| known.is_none_or(|k| k.get(n).is_none())) {
                    match says {
                        Value::Bool(true) => {}
                        Value::Bool(false) => found.push(format!("{at}: {name} is not known")),
                        schema => found.extend(faults(schema, field, &format!("{at}/{name}"))),
                    }
                }
            }
            "propertyNames" => {
                let names = value.as_object().into_iter().flatten().map(|(name, _)| name);
                found.extend(names.flat_map(|name| faults(says, &json!(name), at)));
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(says, item, &format!("{at}/{n}")));
                }
            }
            "allOf" => {
                let all = says.as_array().unwrap().iter();
                found.extend(all.flat_map(|schema| faults(schema, value, at)));
            }
            "oneOf" | "anyOf" => {
                let ways = says.as_array().unwrap().iter();
                let tried: Vec<Vec<String>> = ways.map(|schema| faults(schema, value, at)).collect();
                let fit = tried.iter().filter(|faults| faults.is_empty()).count();
                if fit == 0 {
                    found.extend(tried.into_iter().flatten());
                } else if fit > 1 && word == "oneOf" {
                    found.push(format!("{at}: {fit} of {says} at once"));
                }
            }
            other => assert!(WORDS_ONLY.contains(&other), "{at}: {other} is not read here"),
        }
    }
    found
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{other} is no type"),
    }
}

fn parses(format: &str, value: &Value) -> bool {
    let Some(text) = value.as_str() else { return true };
    match format {
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "date-time" => chrono::DateTime::parse_from_rfc3339(text).is_ok() && text.ends_with('Z'),
        _ => true,
    }
}

#[tokio::test]
async fn answers_of_each_sort_are_as_the_document_has_them() {
    let w = World::new().await;
    w.image().await;
    let lan = w.network("lan").await;
    w.database
        .execute("INSERT INTO hosts (name, address) VALUES ('host-1', '127.0.0.1:1')")
        .await;
    let made = w.post("/v1/instances", instance("one", "lan")).await;
    let (id, job) = (text(&made.body["resource"]["id"]), text(&made.body["job"]["id"]));
    let capacity = r#"{"reason": "capacity", "detail": "No host fits.", "since": "2026-01-01T00:00:00Z",
                       "hosts": {"total": 1, "excluded": {"unreachable": 1}}, "fits_with": null}"#;
    w.database
        .execute(&format!(
            "UPDATE jobs SET waiting = '{capacity}' WHERE id = '{job}'"
        ))
        .await;
    let operator = w.operators.token("operator *:*");
    let waits = w
        .api
        .call(&operator, "GET", &format!("/v1/jobs/{job}"), None)
        .await;
    assert_eq!(waits.body["waiting_on"]["by_host"][0]["excluded"], "unreachable");
    for path in [
        "/readyz".to_owned(),
        "/healthz".to_owned(),
        "/docs".to_owned(),
        "/openapi.json".to_owned(),
        "/v1/kinds".to_owned(),
        "/v1/kinds/network".to_owned(),
        "/v1/hosts".to_owned(),
        "/v1/hosts/host-1".to_owned(),
        "/v1/jobs".to_owned(),
        "/v1/instances".to_owned(),
        format!("/v1/instances/{id}"),
        format!("/v1/instances/{id}/console"),
        format!("/v1/networks/{lan}/leases"),
    ] {
        let answer = w.api.call(&operator, "GET", &path, None).await;
        let ready = if path == "/readyz" { 503 } else { 200 };
        assert_eq!(answer.status, ready, "{path}: {}", answer.body);
    }
    let mine = w
        .api
        .call(&operator, "POST", "/v1/networks", Some(network("own")))
        .await;
    assert_eq!(mine.status, 202, "{}", mine.body);
    let dry = w
        .api
        .call(
            &operator,
            "POST",
            "/v1/instances?dry_run=true",
            Some(instance("two", "own")),
        )
        .await;
    assert_eq!(
        dry.body["placement"]["hosts"]["excluded"],
        json!({"unreachable": 1})
    );
    assert_eq!(dry.body["placement"]["by_host"][0]["excluded"], "unreachable");
    let cancelled = w.call("POST", &format!("/v1/jobs/{job}/cancel"), None).await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.body);
    let failed = w.get(&format!("/v1/instances/{id}")).await;
    assert!(failed.body["reason"]["job"].is_string(), "{}", failed.body);
}

#[tokio::test]
async fn an_event_is_of_a_job_or_of_a_resource() {
    let w = World::new().await;
    let made = w.post("/v1/networks", network("lan")).await;
    let (resource, job) = (&made.body["resource"], &made.body["job"]);
    let event = |kind: &str, object: Value| {
        let mut event = json!({"kind": kind, "id": resource["id"], "tenant": "demo", "change": "created",
                               "changed_at": resource["created_at"]});
        event
            .as_object_mut()
            .unwrap()
            .extend(object.as_object().unwrap().clone());
        event
    };
    right("EventDoc", &event("job", json!({"state": "queued", "job": job})));
    right("EventDoc", &event("network", json!({"resource": resource})));
    right("EventDoc", &event("network", json!({"resource": null})));
}

#[test]
fn a_patch_may_take_tags_away() {
    for kind in ["Network", "Image", "Instance"] {
        for tags in [json!(null), json!({"env": null}), json!({"env": "dev"})] {
            right(&format!("{kind}Patch"), &json!({"tags": tags, "spec": {}}));
        }
        let refused = faults(
            &json!({ "$ref": format!("#/components/schemas/{kind}Patch") }),
            &json!({"name": null}),
            "",
        );
        assert_eq!(refused.len(), 1, "a name can't be taken away");
    }
}
