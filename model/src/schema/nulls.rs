//! What a merge patch (RFC 7396) takes away, checked against a schema: it isn't in the document that comes of it.

use super::check::{escape, list, types, unknown};
use crate::problem::FieldError;
use serde_json::{Map, Value};

/// `UNKNOWN_FIELD` for every `null` of `patch` under a name that the schema doesn't know; pointers begin with `base`. What stands in a
/// list is no patch, but a value.
pub fn unknown_nulls(schema: &Value, patch: &Value, base: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    object(&[schema], patch, base, &mut faults);
    faults
}

fn object(schemas: &[&Value], patch: &Value, at: &str, faults: &mut Vec<FieldError>) {
    let Value::Object(fields) = patch else { return };
    let mut objects = Vec::new();
    for schema in schemas {
        ways(schema, &mut objects);
    }
    if objects.is_empty() {
        // Where no object can be, the document that comes of it has the fault.
        return;
    }
    for (name, field) in fields {
        let known: Vec<&Value> = objects.iter().filter_map(|o| inside(o, name)).collect();
        let pointer = format!("{at}/{}", escape(name));
        match field {
            Value::Null if known.is_empty() => {
                let names = objects.iter().flat_map(|o| properties(o)).map(|(name, _)| name);
                faults.push(FieldError::new(pointer, "UNKNOWN_FIELD", unknown(name, names)));
            }
            Value::Object(_) => object(&known, field, &pointer, faults),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
        }
    }
}

/// The schemas of objects that a schema is made of: itself, or what it chooses among.
fn ways<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
    if types(schema).contains(&"object") {
        found.push(schema);
    }
    for word in ["allOf", "oneOf", "anyOf"] {
        for part in list(schema, word) {
            ways(part, found);
        }
    }
}

/// What an object's schema says of a field.
fn inside<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    static ANYTHING: Value = Value::Bool(true);
    let of_name = schema.get("properties").and_then(|known| known.get(name));
    of_name.or_else(|| match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => None,
        Some(others) => Some(others),
        None => Some(&ANYTHING),
    })
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}
