//! Checks a document against a schema made by [`super::of`].

use super::formats;
use crate::problem::FieldError;
use serde_json::{Map, Value};

/// Every fault of `doc`, in the order of the document, then what is missing; pointers begin with `base`.
///
/// Codes: `UNKNOWN_FIELD`, `MISSING_FIELD`, `WRONG_TYPE`, `INVALID_VALUE`.
pub fn check(schema: &Value, doc: &Value, base: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    value(schema, doc, base, &mut faults);
    faults
}

fn value(schema: &Value, doc: &Value, at: &str, faults: &mut Vec<FieldError>) {
    for part in list(schema, "allOf") {
        value(part, doc, at, faults);
    }
    let choices: Vec<&Value> = list(schema, "oneOf")
        .iter()
        .chain(list(schema, "anyOf"))
        .collect();
    if !choices.is_empty() {
        choice(&choices, doc, at, faults);
        return;
    }
    let types = types(schema);
    if !types.is_empty() && !types.iter().any(|t| is_of(doc, t)) {
        let wanted: Vec<&str> = types
            .iter()
            .copied()
            .filter(|t| *t != "null")
            .map(in_words)
            .collect();
        faults.push(FieldError::new(
            at,
            "WRONG_TYPE",
            format!("{} where {} is needed", a_value(doc), wanted.join(" or ")),
        ));
        return;
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !doc.is_null()
        && !allowed.contains(doc)
    {
        let texts: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let near = doc.as_str().and_then(|d| nearest(d, texts.iter().copied()));
        let hint = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
        faults.push(FieldError::new(
            at,
            "INVALID_VALUE",
            format!("{} is none of {}{hint}", quoted(doc), texts.join(", ")),
        ));
        return;
    }
    match doc {
        Value::Object(fields) => object(schema, fields, at, faults),
        Value::Array(items) => array(schema, items, at, faults),
        Value::String(text) => string(schema, text, at, faults),
        Value::Number(_) => number(schema, doc, at, faults),
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, at: &str, faults: &mut Vec<FieldError>) {
    let none = Map::new();
    let known = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let others = schema.get("additionalProperties");
    for (name, field) in fields {
        let pointer = format!("{at}/{}", escape(name));
        match (known.get(name), others) {
            (Some(schema), _) => value(schema, field, &pointer, faults),
            (None, Some(Value::Bool(false))) => {
                faults.push(FieldError::new(
                    pointer,
                    "UNKNOWN_FIELD",
                    unknown(name, known.keys()),
                ));
            }
            (None, Some(schema @ Value::Object(_))) => {
                nul(name, &pointer, faults);
                value(schema, field, &pointer, faults);
            }
            (None, _) => {}
        }
    }
    for name in list(schema, "required").iter().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            let pointer = format!("{at}/{}", escape(name));
            faults.push(FieldError::new(
                pointer,
                "MISSING_FIELD",
                format!("the field \"{name}\" is missing"),
            ));
        }
    }
}

fn array(schema: &Value, items: &[Value], at: &str, faults: &mut Vec<FieldError>) {
    if let Some(each) = schema.get("items") {
        for (i, item) in items.iter().enumerate() {
            value(each, item, &format!("{at}/{i}"), faults);
        }
    }
}

fn string(schema: &Value, text: &str, at: &str, faults: &mut Vec<FieldError>) {
    nul(text, at, faults);
    if let Some(right) = schema
        .get("format")
        .and_then(Value::as_str)
        .and_then(|f| formats::fault(f, text))
    {
        faults.push(FieldError::new(
            at,
            "INVALID_VALUE",
            format!("{text:?} is not {right}"),
        ));
    }
}

/// A text column of Postgres can't hold NUL.
fn nul(text: &str, at: &str, faults: &mut Vec<FieldError>) {
    if text.contains('\0') {
        faults.push(FieldError::new(
            at,
            "INVALID_VALUE",
            "there is a NUL character in it",
        ));
    }
}

/// The range of the Rust type behind the schema: by `format`, narrowed by `minimum` and `maximum`.
fn number(schema: &Value, doc: &Value, at: &str, faults: &mut Vec<FieldError>) {
    let (Some(number), true) = (integer(doc), types(schema).contains(&"integer")) else {
        return;
    };
    let bound = |name: &str| schema.get(name).and_then(whole);
    let least = bound("minimum");
    let unsigned = least.is_some_and(|m| m >= 0);
    let (low, high) = match (schema.get("format").and_then(Value::as_str), unsigned) {
        (Some("int32"), true) => (0, i128::from(u32::MAX)),
        (Some("int32"), false) => (i128::from(i32::MIN), i128::from(i32::MAX)),
        (_, true) => (0, i128::from(u64::MAX)),
        (_, false) => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let low = least.unwrap_or(low).max(low);
    let high = bound("maximum").unwrap_or(high).min(high);
    if number < low || number > high {
        faults.push(FieldError::new(
            at,
            "INVALID_VALUE",
            format!("{number} is not from {low} to {high}"),
        ));
    }
}

/// A bound, which may be written as a float.
fn whole(bound: &Value) -> Option<i128> {
    integer(bound).or_else(|| bound.as_f64().map(|f| f as i128))
}

fn integer(value: &Value) -> Option<i128> {
    value
        .as_i64()
        .map(i128::from)
        .or_else(|| value.as_u64().map(i128::from))
}

/// One of several: null or a value, or an object with one field that says which (serde's externally tagged enums).
fn choice(choices: &[&Value], doc: &Value, at: &str, faults: &mut Vec<FieldError>) {
    let (nulls, choices): (Vec<&Value>, Vec<&Value>) = choices.iter().partition(|c| types(c) == ["null"]);
    if doc.is_null() && !nulls.is_empty() {
        return;
    }
    if let [only] = choices.as_slice() {
        return value(only, doc, at, faults);
    }
    let tags: Vec<(&str, &Value)> = choices.iter().filter_map(|c| tag(c)).collect();
    if tags.len() == choices.len() {
        return tagged(&tags, doc, at, faults);
    }
    let mut tried = choices.iter().map(|c| check(c, doc, at)).collect::<Vec<_>>();
    if tried.iter().all(|found| !found.is_empty()) {
        tried.sort_by_key(Vec::len);
        faults.extend(tried.into_iter().next().unwrap_or_default());
    }
}

/// The name and schema of the one field of an externally tagged variant.
pub(super) fn tag(choice: &Value) -> Option<(&str, &Value)> {
    let fields = choice.get("properties")?.as_object()?;
    let (name, schema) = fields.iter().next()?;
    (fields.len() == 1 && list(choice, "required") == [Value::from(name.as_str())]).then_some((name, schema))
}

fn tagged(tags: &[(&str, &Value)], doc: &Value, at: &str, faults: &mut Vec<FieldError>) {
    let names = tags.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let Value::Object(fields) = doc else {
        let detail = format!("{} where an object with one of {names} is needed", a_value(doc));
        faults.push(FieldError::new(at, "WRONG_TYPE", detail));
        return;
    };
    let mut said = 0;
    for (name, field) in fields {
        let pointer = format!("{at}/{}", escape(name));
        if let Some((_, schema)) = tags.iter().find(|(tag, _)| tag == name) {
            said += 1;
            value(schema, field, &pointer, faults);
        } else {
            let known = tags.iter().map(|(tag, _)| *tag);
            faults.push(FieldError::new(pointer, "UNKNOWN_FIELD", unknown(name, known)));
        }
    }
    if said == 0 && fields.is_empty() {
        faults.push(FieldError::new(
            at,
            "MISSING_FIELD",
            format!("one of {names} is missing"),
        ));
    }
    if said > 1 {
        faults.push(FieldError::new(
            at,
            "INVALID_VALUE",
            format!("only one of {names} may be given"),
        ));
    }
}

pub(super) fn list<'a>(schema: &'a Value, word: &str) -> &'a [Value] {
    schema
        .get(word)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(super) fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
    }
}

fn is_of(doc: &Value, kind: &str) -> bool {
    match kind {
        "null" => doc.is_null(),
        "boolean" => doc.is_boolean(),
        "object" => doc.is_object(),
        "array" => doc.is_array(),
        "string" => doc.is_string(),
        "number" => doc.is_number(),
        // Not `1.0`, which the schema would allow: serde refuses it for an integer.
        "integer" => doc.is_i64() || doc.is_u64(),
        _ => false,
    }
}

fn in_words(kind: &str) -> &str {
    match kind {
        "boolean" => "true or false",
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "number" => "a number",
        "integer" => "a whole number",
        other => other,
    }
}

fn a_value(doc: &Value) -> &'static str {
    match doc {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "a number with a fraction or out of range",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A short rendering: a document may be large.
fn quoted(doc: &Value) -> String {
    let text = doc.to_string();
    if text.chars().count() <= 64 {
        text
    } else {
        format!("{}…", text.chars().take(64).collect::<String>())
    }
}

pub(super) fn unknown(name: &str, known: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let known: Vec<String> = known.into_iter().map(|k| k.as_ref().to_owned()).collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("the field \"{name}\" is not known; did you mean \"{near}\"?"),
        None => format!(
            "the field \"{name}\" is not known; known are {}",
            known.join(", ")
        ),
    }
}

/// The known word that a typo away from `word` lies nearest: at most a third of its letters differ.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let word_lower = word.to_lowercase();
    known
        .map(|k| (distance(&word_lower, k), k))
        .filter(|(d, k)| *d <= (k.chars().count() / 3).max(1))
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// A name as a part of a JSON Pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
