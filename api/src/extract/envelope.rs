//! `{name, tags, spec}`: the document of a create, and the merge patch (RFC 7396) of one that is there.
//!
//! Guarantees: faults of the envelope and of the spec come together; the spec that comes out has its defaults filled in.

use super::json::escape;
use crate::problem::Problem;
use rhyzome_model::ids::is_dns_label;
use rhyzome_model::kinds::Kind;
use rhyzome_model::problem::FieldError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Tags of one resource.
const TAGS_MAX: usize = 64;
/// Characters of a tag's key, and of its value.
const TAG_KEY_MAX: usize = 63;
const TAG_VALUE_MAX: usize = 255;

/// What a user asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// A DNS label.
    pub name: String,
    /// Of the user.
    pub tags: BTreeMap<String, String>,
    /// As the kind's schema says, defaults filled in.
    pub spec: Value,
}

/// The envelope of a create.
pub fn of_create(kind: Kind, body: Value) -> Result<Envelope, Problem> {
    read(kind, body).map_err(Problem::invalid)
}

/// The envelope after a merge patch.
pub fn of_patch(kind: Kind, current: &Envelope, patch: &Value) -> Result<Envelope, Problem> {
    let Value::Object(fields) = patch else {
        return Err(Problem::invalid(vec![FieldError::new(
            "",
            "WRONG_TYPE",
            "a merge patch is an object",
        )]));
    };
    let mut document =
        serde_json::json!({ "name": current.name, "tags": current.tags, "spec": current.spec });
    merge(&mut document, patch);
    // A field that isn't known is a fault although `null` merged it away.
    let mut faults: Vec<FieldError> = fields
        .iter()
        .filter(|(name, value)| value.is_null() && !known(name))
        .map(|(name, _)| unknown(name))
        .collect();
    if let Some(spec) = fields.get("spec") {
        faults.extend(kind.ops().unknown_nulls(spec));
    }
    match read(kind, document) {
        Ok(envelope) if faults.is_empty() => Ok(envelope),
        Ok(_) => Err(Problem::invalid(faults)),
        Err(more) => {
            faults.extend(more);
            Err(Problem::invalid(faults))
        }
    }
}

/// Whether a patch says anything of the spec.
pub fn touches_spec(patch: &Value) -> bool {
    patch.get("spec").is_some()
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn known(name: &str) -> bool {
    matches!(name, "name" | "tags" | "spec")
}

fn unknown(name: &str) -> FieldError {
    let detail = format!("the field \"{name}\" is not known; known are name, tags, spec");
    FieldError::new(format!("/{}", escape(name)), "UNKNOWN_FIELD", detail)
}

fn missing(name: &str) -> FieldError {
    FieldError::new(
        format!("/{name}"),
        "MISSING_FIELD",
        format!("the field \"{name}\" is missing"),
    )
}

fn read(kind: Kind, body: Value) -> Result<Envelope, Vec<FieldError>> {
    let Value::Object(mut fields) = body else {
        return Err(vec![FieldError::new(
            "",
            "WRONG_TYPE",
            "the body must be an object with name, tags and spec",
        )]);
    };
    let mut faults: Vec<FieldError> = fields
        .keys()
        .filter(|name| !known(name))
        .map(|name| unknown(name))
        .collect();
    let name = name(fields.remove("name"), &mut faults);
    let tags = tags(fields.remove("tags"), &mut faults);
    let spec = match fields.remove("spec") {
        None => {
            faults.push(missing("spec"));
            Value::Null
        }
        Some(spec) => kind.ops().parse(&spec).unwrap_or_else(|more| {
            faults.extend(more);
            Value::Null
        }),
    };
    if faults.is_empty() {
        Ok(Envelope { name, tags, spec })
    } else {
        Err(faults)
    }
}

fn name(value: Option<Value>, faults: &mut Vec<FieldError>) -> String {
    match value {
        None => faults.push(missing("name")),
        Some(Value::String(name)) if is_dns_label(&name) => return name,
        Some(Value::String(name)) => {
            let shown: String = name.chars().take(80).collect();
            let detail = format!(
                "{shown:?} is not a DNS label: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
            );
            faults.push(FieldError::new("/name", "INVALID_VALUE", detail));
        }
        Some(_) => faults.push(FieldError::new("/name", "WRONG_TYPE", "a text is needed")),
    }
    String::new()
}

fn tags(value: Option<Value>, faults: &mut Vec<FieldError>) -> BTreeMap<String, String> {
    let fields = match value {
        None => return BTreeMap::new(),
        Some(Value::Object(fields)) => fields,
        Some(_) => {
            faults.push(FieldError::new(
                "/tags",
                "WRONG_TYPE",
                "an object of texts is needed",
            ));
            return BTreeMap::new();
        }
    };
    if fields.len() > TAGS_MAX {
        faults.push(FieldError::new(
            "/tags",
            "INVALID_VALUE",
            format!("there are more than {TAGS_MAX} tags"),
        ));
    }
    let mut tags = BTreeMap::new();
    for (key, value) in fields {
        let pointer = format!("/tags/{}", escape(&key));
        if key.is_empty()
            || key.chars().count() > TAG_KEY_MAX
            || key.chars().any(|c| c.is_control() || c == ':')
        {
            let detail = format!("a tag's key is 1 to {TAG_KEY_MAX} characters without `:`");
            faults.push(FieldError::new(pointer.as_str(), "INVALID_VALUE", detail));
        }
        match value {
            Value::String(text)
                if text.chars().count() <= TAG_VALUE_MAX && !text.chars().any(char::is_control) =>
            {
                tags.insert(key, text);
            }
            Value::String(_) => {
                let detail = format!("a tag's value is at most {TAG_VALUE_MAX} characters on one line");
                faults.push(FieldError::new(pointer, "INVALID_VALUE", detail));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                faults.push(FieldError::new(pointer, "WRONG_TYPE", "a text is needed"));
            }
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::{Envelope, merge, of_create, of_patch};
    use rhyzome_model::kinds::Kind;
    use serde_json::{Value, json};

    fn pointers(result: Result<Envelope, crate::problem::Problem>) -> (u16, Vec<String>) {
        let problem = result.unwrap_err();
        let mut pointers: Vec<String> = problem.errors().iter().map(|e| e.pointer.clone()).collect();
        pointers.sort();
        (problem.status(), pointers)
    }

    #[test]
    fn every_fault_at_once() {
        let body =
            json!({"name": "Web", "tag": {}, "tags": {"a": 1}, "spec": {"cidr": 7, "gatway": "10.0.0.1"}});
        let want = ["/name", "/spec/cidr", "/spec/gatway", "/tag", "/tags/a"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(pointers(of_create(Kind::Network, body)), (400, want));
        let want = ["/name", "/spec"].map(str::to_owned).to_vec();
        assert_eq!(pointers(of_create(Kind::Network, json!({}))), (400, want));
        assert_eq!(
            pointers(of_create(Kind::Network, json!([]))),
            (400, vec![String::new()])
        );
    }

    #[test]
    fn a_patch_merges() {
        let current = of_create(
            Kind::Network,
            json!({"name": "lan", "tags": {"env": "dev", "a": "b"}, "spec": {"cidr": "10.20.0.0/24", "dns": ["10.20.0.2"]}}),
        )
        .unwrap();
        let patch = json!({"tags": {"env": null, "c": "d"}, "spec": {"dns": ["10.20.0.3"]}});
        let after = of_patch(Kind::Network, &current, &patch).unwrap();
        assert_eq!(after.name, "lan");
        assert_eq!(
            serde_json::to_value(&after.tags).unwrap(),
            json!({"a": "b", "c": "d"})
        );
        assert_eq!(after.spec["dns"], json!(["10.20.0.3"]));
        assert_eq!(after.spec["cidr"], json!("10.20.0.0/24"));
        assert_eq!(
            pointers(of_patch(Kind::Network, &current, &json!({"name": null}))).1,
            ["/name"]
        );
        assert_eq!(
            pointers(of_patch(Kind::Network, &current, &json!({"foo": null}))).1,
            ["/foo"]
        );
        assert_eq!(
            pointers(of_patch(
                Kind::Network,
                &current,
                &json!({"foo": null, "spec": {"gatway": null, "gateway": null}})
            )),
            (400, vec!["/foo".to_owned(), "/spec/gatway".to_owned()])
        );
        assert_eq!(
            pointers(of_patch(Kind::Network, &current, &json!({"state": "ready"}))).1,
            ["/state"]
        );
        assert_eq!(pointers(of_patch(Kind::Network, &current, &json!(7))).1, [""]);
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn rfc_7396() {
        let table = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, result) in table {
            let mut value: Value = serde_json::from_str(target).unwrap();
            merge(&mut value, &serde_json::from_str(patch).unwrap());
            assert_eq!(
                value,
                serde_json::from_str::<Value>(result).unwrap(),
                "{target} + {patch}"
            );
        }
    }
}
