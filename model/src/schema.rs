//! JSON Schema (2020-12) of specs, and the check of a document against one.
//!
//! The schemas are made from the Rust types, with every `$ref` put in its place. The check reads the part of the vocabulary that
//! such schemas use, and reports every fault at once with its JSON Pointer (RFC 6901). A document without faults here
//! deserialises.

mod check;
mod formats;
mod nulls;

pub use check::check;
pub use nulls::unknown_nulls;

use crate::kinds::{Kind, KindDef};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr};

/// Nesting at which a `$ref` is no longer followed: specs are trees a few levels deep.
const DEPTH_MAX: usize = 16;

/// Stands for an IPv4 address where a derive can't say the format of a list's items.
#[derive(Debug)]
pub struct Ipv4Text;

impl utoipa::PartialSchema for Ipv4Text {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Ipv4)))
            .into()
    }
}

impl utoipa::ToSchema for Ipv4Text {}

/// The schema of a kind's spec, self-contained. Made once.
pub fn of<K: KindDef>() -> &'static Value {
    static NETWORK: OnceLock<Value> = OnceLock::new();
    static IMAGE: OnceLock<Value> = OnceLock::new();
    static INSTANCE: OnceLock<Value> = OnceLock::new();
    let made = match K::KIND {
        Kind::Network => &NETWORK,
        Kind::Image => &IMAGE,
        Kind::Instance => &INSTANCE,
    };
    made.get_or_init(make::<K::Spec>)
}

fn make<S: utoipa::ToSchema>() -> Value {
    let mut named = Vec::new();
    S::schemas(&mut named);
    let named: BTreeMap<String, Value> = named
        .into_iter()
        .map(|(name, schema)| (name, json(&schema)))
        .collect();
    let mut schema = inline(&json(&S::schema()), &named, 0);
    if let Value::Object(fields) = &mut schema {
        let mut whole = Map::new();
        whole.insert(
            "$schema".to_owned(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        whole.append(fields);
        schema = Value::Object(whole);
    }
    schema
}

/// A schema of utoipa always is JSON; were one not, it would accept nothing.
fn json(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).unwrap_or(Value::Bool(false))
}

/// serde refuses a second field beside the one that names the variant of an enum; the derive doesn't say so.
fn close_variant(choice: &mut Value) {
    if check::tag(choice).is_some()
        && let Value::Object(fields) = choice
    {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
}

/// `{"$ref": "#/components/schemas/NAME"}` becomes what NAME is, with the words beside the reference kept.
fn inline(schema: &Value, named: &BTreeMap<String, Value>, depth: usize) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut out = Map::new();
            let target = fields
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| r.rsplit('/').next());
            if let Some(found) = target
                .and_then(|name| named.get(name))
                .filter(|_| depth < DEPTH_MAX)
                && let Value::Object(inner) = inline(found, named, depth + 1)
            {
                out = inner;
            }
            for (key, value) in fields.iter().filter(|(key, _)| *key != "$ref") {
                out.insert(key.clone(), inline(value, named, depth));
            }
            if let Some(Value::Array(choices)) = out.get_mut("oneOf") {
                choices.iter_mut().for_each(close_variant);
            }
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(|item| inline(item, named, depth)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => schema.clone(),
    }
}
