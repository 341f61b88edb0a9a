//! `/openapi.json` (OpenAPI 3.1), from the code: paths and parameters from the route table, documents from the types that are
//! serialised, specs from the kinds' own schemas.

use super::table::{Answer, Body, Endpoint, Need, endpoints as all};
use super::{docs, health, hosts, jobs, kinds, networks};
use crate::accept::{dry_run, reply};
use crate::events::EventDoc;
use crate::problem::Code;
use crate::shapes::job::JobDoc;
use crate::shapes::resource::ResourceDoc;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Method;
use http::header::CONTENT_TYPE;
use rhyzome_model::ids::DNS_LABEL;
use rhyzome_model::kinds::Kind;
use rhyzome_model::shown::ResourceState;
use serde_json::{Map, Value, json};
use std::sync::OnceLock;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// See the module.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/openapi.json".to_owned(),
        need: Need::Public,
        summary: "This contract as OpenAPI 3.1".to_owned(),
        query: &[],
        body: Body::None,
        answer: Answer::Object,
        handler: get(|| async { openapi() }),
    }]
}

fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document(&all()).to_string());
    ([(CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// The contract of these endpoints.
pub fn document(endpoints: &[Endpoint]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let path = paths.entry(endpoint.path.clone()).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rhyzome",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later" },
            "description": "Requests become durable jobs. Errors are application/problem+json (RFC 9457)."
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": { "Problem": problem_response() },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } }
        }
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut parameters: Vec<Value> = endpoint
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(endpoint.query.iter().map(|name| query_parameter(name)));
    parameters.extend(header_parameters(endpoint));
    let mut responses = Map::new();
    responses.insert(endpoint.answer.status().to_string(), good(endpoint.answer));
    match endpoint.answer {
        Answer::Accepted => {
            responses.insert("200".to_owned(), nothing_to_do());
        }
        Answer::Readiness => {
            responses.insert("503".to_owned(), good(endpoint.answer));
        }
        _ => {}
    }
    responses.insert(
        "default".to_owned(),
        json!({ "$ref": "#/components/responses/Problem" }),
    );
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "description": format!("Needs {}.", docs::need(endpoint.need)),
        "parameters": parameters,
        "responses": responses
    });
    if endpoint.need != Need::Public {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    match endpoint.body {
        Body::None => {}
        Body::Create(kind) => {
            operation["requestBody"] = body("application/json", &format!("{}Create", title(kind)));
        }
        Body::Patch(kind) => {
            operation["requestBody"] = body("application/merge-patch+json", &format!("{}Patch", title(kind)));
        }
    }
    operation
}

fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint
        .path
        .split(['/', '.'])
        .filter(|w| !w.is_empty() && *w != "v1");
    let words: Vec<&str> = words.map(|w| w.trim_matches(['{', '}'])).collect();
    format!("{}_{}", endpoint.method.as_str().to_lowercase(), words.join("_"))
}

fn query_parameter(name: &str) -> Value {
    let schema = match name {
        "dry_run" => json!({ "type": "boolean" }),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 500, "default": 50,
            "description": "At most so many: a page that has fewer, and a token for the next, ended by its size or by how many were looked at." }),
        "tail" => json!({ "type": "integer", "minimum": 1, "maximum": 10000, "default": 200 }),
        "wait" => json!({ "type": "integer", "minimum": 0, "maximum": 60 }),
        "deadline_seconds" => json!({ "type": "integer", "minimum": 1, "maximum": 2_592_000 }),
        "tag" => json!({ "type": "array", "items": { "type": "string", "pattern": "^[^:]+:" } }),
        _ => json!({ "type": "string" }),
    };
    json!({ "name": name, "in": "query", "required": false, "schema": schema })
}

fn header_parameters(endpoint: &Endpoint) -> Vec<Value> {
    let header = |name: &str| json!({ "name": name, "in": "header", "required": false, "schema": { "type": "string" } });
    let mut headers = Vec::new();
    if endpoint.method == Method::POST {
        headers.push(header("Idempotency-Key"));
    }
    if endpoint.method == Method::PATCH || endpoint.method == Method::DELETE {
        headers.push(header("If-Match"));
    }
    if endpoint.answer == Answer::Events {
        headers.push(header("Last-Event-ID"));
    }
    if endpoint.answer.status() == 202 {
        headers.push(header("Prefer"));
    }
    headers
}

fn good(answer: Answer) -> Value {
    let of = |schema: &str| json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } });
    let page = |schema: &str| {
        json!({ "application/json": { "schema": {
            "type": "object",
            "required": ["items", "next_page_token"],
            "properties": {
                "items": { "type": "array", "items": { "$ref": format!("#/components/schemas/{schema}") } },
                "next_page_token": { "type": ["string", "null"] }
            }
        } } })
    };
    let (description, content) = match answer {
        Answer::Accepted => ("Accepted: the resource and its job", of("AcceptedDoc")),
        Answer::AcceptedJob => ("Accepted: the job", of("JobOnly")),
        Answer::Resource => ("The resource", of("ResourceDoc")),
        Answer::Resources => ("A page of resources, newest last", page("ResourceDoc")),
        Answer::Job => ("The job", of("JobDoc")),
        Answer::Jobs => ("A page of jobs, newest last", page("JobDoc")),
        Answer::Document(schema) => ("The answer", of(schema)),
        Answer::Page(schema) => ("A page", page(schema)),
        Answer::Readiness => ("What it can do, and what is missing for that", of("Readiness")),
        Answer::Object => (
            "The answer",
            json!({ "application/json": { "schema": { "type": "object" } } }),
        ),
        Answer::Events => (
            "Server-Sent Events: `event` is the kind, `data` an EventDoc, `id` goes into Last-Event-ID",
            json!({ "text/event-stream": { "schema": { "$ref": "#/components/schemas/EventDoc" } } }),
        ),
        Answer::Text(media_type) => {
            let mut content = Map::new();
            content.insert(media_type.to_owned(), json!({ "schema": { "type": "string" } }));
            ("Text", Value::Object(content))
        }
    };
    json!({ "description": description, "content": content })
}

fn nothing_to_do() -> Value {
    json!({
        "description": "Nothing had to be done, or a dry run's answer",
        "content": { "application/json": { "schema": { "anyOf": [
            { "$ref": "#/components/schemas/AcceptedDoc" }, { "$ref": "#/components/schemas/DryRunDoc" }
        ] } } }
    })
}

fn body(media_type: &str, schema: &str) -> Value {
    let mut content = Map::new();
    content.insert(
        media_type.to_owned(),
        json!({ "schema": { "$ref": format!("#/components/schemas/{schema}") } }),
    );
    json!({ "required": true, "content": content })
}

fn title(kind: Kind) -> String {
    let mut chars = kind.as_str().chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn named() -> Vec<(String, RefOr<Schema>)> {
    let mut named = Vec::new();
    add::<ResourceDoc<'_>>(&mut named);
    add::<JobDoc<'_>>(&mut named);
    add::<reply::AcceptedDoc<'_>>(&mut named);
    add::<jobs::JobOnly<'_>>(&mut named);
    add::<dry_run::DryRunDoc<'_>>(&mut named);
    add::<networks::LeaseDoc>(&mut named);
    add::<kinds::KindDoc>(&mut named);
    add::<hosts::HostDoc<'_>>(&mut named);
    add::<EventDoc<'_>>(&mut named);
    add::<ResourceState>(&mut named);
    add::<health::Readiness>(&mut named);
    named
}

fn schemas() -> Value {
    let mut schemas: Map<String, Value> = Map::new();
    for (name, schema) in named() {
        // Schemas always are JSON; were one not, it would accept nothing.
        schemas.insert(name, serde_json::to_value(schema).unwrap_or(Value::Bool(false)));
    }
    for &kind in Kind::ALL {
        let mut spec = kind.ops().schema().clone();
        if let Value::Object(fields) = &mut spec {
            fields.remove("$schema");
        }
        let name = title(kind);
        schemas.insert(format!("{name}Create"), envelope(&name));
        schemas.insert(format!("{name}Patch"), merge_patch());
        schemas.insert(format!("{name}Spec"), spec);
    }
    schemas.insert("Problem".to_owned(), problem());
    Value::Object(schemas)
}

fn add<T: ToSchema>(named: &mut Vec<(String, RefOr<Schema>)>) {
    T::schemas(named);
    named.push((T::name().into_owned(), T::schema()));
}

fn envelope(kind: &str) -> Value {
    json!({
        "type": "object",
        "required": ["name", "spec"],
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "pattern": DNS_LABEL },
            "tags": { "type": "object", "additionalProperties": { "type": "string", "maxLength": 255 }, "maxProperties": 64 },
            "spec": { "$ref": format!("#/components/schemas/{kind}Spec") }
        }
    })
}

/// What a patch may say; what comes of it is checked as a create is.
fn merge_patch() -> Value {
    json!({
        "type": "object",
        "description": "A JSON merge patch (RFC 7396): null takes a field away",
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "pattern": DNS_LABEL },
            "tags": { "type": ["object", "null"], "additionalProperties": { "type": ["string", "null"], "maxLength": 255 } },
            "spec": { "type": "object" }
        }
    })
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "errors", "retryable", "request_id"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "instance": { "type": "string" },
            "code": { "type": "string", "examples": codes },
            "errors": { "type": "array", "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": { "type": "string" }, "code": { "type": "string" }, "detail": { "type": "string" }
                }
            } },
            "conflicts": { "type": "array", "items": { "type": "object" } },
            "quota": { "type": "string", "description": "Of QUOTA_EXCEEDED: the limit that would be passed" },
            "limit": { "type": "integer" }, "used": { "type": "integer" }, "asked": { "type": "integer" },
            "retryable": { "type": "boolean" },
            "request_id": { "type": "string" }
        }
    })
}

fn problem_response() -> Value {
    json!({
        "description": "Refused",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }
    })
}

#[cfg(test)]
mod tests {
    use super::{all, document, named};
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    /// Two types under one name: the later one would stand for both.
    #[test]
    fn a_name_is_one_schemas() {
        let mut seen = BTreeMap::new();
        for (name, schema) in named() {
            let schema = serde_json::to_value(schema).unwrap();
            let first = seen.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*first, schema, "{name}");
        }
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_endpoint_is_there_and_every_reference_leads_somewhere() {
        let endpoints = all();
        let document = document(&endpoints);
        for endpoint in &endpoints {
            let operation = &document["paths"][&endpoint.path][endpoint.method.as_str().to_lowercase()];
            assert!(operation["responses"].is_object(), "{endpoint:?}");
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            assert!(
                document.pointer(reference.trim_start_matches('#')).is_some(),
                "{reference}"
            );
        }
        let ids: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
