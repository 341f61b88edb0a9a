//! JSON in one pass. Guarantees: an object that names a field twice is refused with a pointer to it (RFC 8259 leaves its meaning open);
//! nesting is bounded by serde_json (128); nothing follows the document; what is told of the faults is no larger than a fixed bound,
//! whatever the body is made of.

use crate::problem::{Code, FAULTS_MAX, Problem, shortened};
use rhyzome_model::problem::FieldError;
use ring::digest::{Context, SHA256};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::{Cell, RefCell};
use std::fmt;

/// Where in the document the reader is; made into a pointer only for a fault.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        self.write(&mut pointer);
        pointer
    }

    fn write(&self, pointer: &mut String) {
        match self {
            Place::Root => {}
            Place::Field(parent, name) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&escape(&shortened(name)));
            }
            Place::Item(parent, n) => {
                parent.write(pointer);
                pointer.push('/');
                pointer.push_str(&n.to_string());
            }
        }
    }
}

/// A name as a part of a JSON Pointer (RFC 6901).
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Fields that were there before, as many as are told of.
#[derive(Default)]
struct Doubles {
    told: RefCell<Vec<FieldError>>,
    untold: Cell<usize>,
}

impl Doubles {
    fn add(&self, place: &Place<'_>, name: &str) {
        let mut told = self.told.borrow_mut();
        if told.len() < FAULTS_MAX {
            let detail = format!("the field \"{}\" is there twice", shortened(name));
            told.push(FieldError::new(place.pointer(), "DUPLICATE_FIELD", detail));
        } else {
            self.untold.set(self.untold.get() + 1);
        }
    }
}

struct Strict<'a> {
    place: Place<'a>,
    doubles: &'a Doubles,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Number(n.into()))
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<Value, E> {
        Number::from_f64(n)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.to_owned()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::String(s))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let doubles = self.doubles;
        while let Some(item) = seq.next_element_seed(Strict {
            place: Place::Item(&self.place, items.len()),
            doubles,
        })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let place = Place::Field(&self.place, &name);
            if fields.contains_key(&name) {
                self.doubles.add(&place, &name);
            }
            let value = map.next_value_seed(Strict {
                place,
                doubles: self.doubles,
            })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

/// The document of a body.
pub fn parse(body: &[u8]) -> Result<Value, Problem> {
    let doubles = Doubles::default();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = Strict {
        place: Place::Root,
        doubles: &doubles,
    }
    .deserialize(&mut reader)
    .and_then(|value| reader.end().map(|()| value));
    let value = read.map_err(|e| Problem::new(Code::MalformedJson, format!("The body is not JSON: {e}.")))?;
    let (told, untold) = (doubles.told.into_inner(), doubles.untold.get());
    if told.is_empty() {
        Ok(value)
    } else {
        Err(Problem::invalid_with_more(told, untold))
    }
}

/// SHA-256 of what a document means: fields by name, numbers by value, white space left out.
pub fn meaning_hash(value: &Value) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    feed(&mut context, value);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn feed(context: &mut Context, value: &Value) {
    let mut text = |tag: u8, bytes: &[u8]| {
        context.update(&[tag]);
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    match value {
        Value::Null => text(b'n', b""),
        Value::Bool(b) => text(b'b', &[u8::from(*b)]),
        Value::Number(n) => text(b'#', number(n).as_bytes()),
        Value::String(s) => text(b's', s.as_bytes()),
        Value::Array(items) => {
            text(b'[', &items.len().to_be_bytes());
            for item in items {
                feed(context, item);
            }
        }
        Value::Object(fields) => {
            text(b'{', &fields.len().to_be_bytes());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            for (name, field) in fields {
                context.update(&(name.len() as u64).to_be_bytes());
                context.update(name.as_bytes());
                feed(context, field);
            }
        }
    }
}

/// 1 and 1.0 are one number.
fn number(n: &Number) -> String {
    match n.as_f64() {
        Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 => {
            (f as i64).to_string()
        }
        Some(_) | None => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{FAULTS_MAX, meaning_hash, parse};
    use serde_json::json;

    #[test]
    fn a_field_named_twice_is_refused_by_pointer() {
        let problem = parse(br#"{"a": [{"b/c": 1, "b/c": 2}], "a": 1}"#).unwrap_err();
        let pointers: Vec<&str> = problem.errors().iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!((problem.status(), pointers), (400, vec!["/a/0/b~1c", "/a"]));
    }

    #[test]
    fn a_small_body_has_no_large_answer() {
        let fields = r#""a":1,"#.repeat(4_000);
        let long = "x".repeat(60_000);
        let body = format!("{{\"spec\":{{\"{long}\":{{{fields}\"a\":1}}}}}}");
        let problem = parse(body.as_bytes()).unwrap_err();
        assert_eq!(problem.errors().len(), FAULTS_MAX);
        assert_eq!(
            problem.errors()[0].pointer,
            format!("/spec/{}…/a", "x".repeat(255))
        );
        assert!(problem.detail().contains("3999 more"), "{}", problem.detail());
        assert!(problem.document("/", "").len() < 100_000);
        let name = format!("\"{long}\":1");
        let nested = format!("{}{{{name},{name}}}{}", r#"{"a":"#.repeat(100), "}".repeat(100));
        let problem = parse(nested.as_bytes()).unwrap_err();
        assert!(problem.document("/", "").len() < 2_000);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for body in ["", "{", "{} {}", "nul", "{\"a\": 1e999}", &"[".repeat(200)] {
            assert_eq!(parse(body.as_bytes()).map_err(|p| p.status()), Err(400), "{body}");
        }
        assert_eq!(
            parse(br#" {"a": [1, -2, 2.5, "x", null, true]} "#).unwrap(),
            json!({"a": [1, -2, 2.5, "x", null, true]})
        );
    }

    #[test]
    fn equal_as_json_is_equal_as_hash() {
        let same = [r#"{"a":1,"b":[1,2]}"#, r#" { "b" : [1.0, 2], "a" : 1 } "#];
        let hashes: Vec<_> = same
            .iter()
            .map(|s| meaning_hash(&parse(s.as_bytes()).unwrap()))
            .collect();
        assert_eq!(hashes[0], hashes[1]);
        let others = [
            r#"{"a":1,"b":[2,1]}"#,
            r#"{"a":"1","b":[1,2]}"#,
            r#"{"a":1,"b":[[1,2]]}"#,
            r#"{"a":1}"#,
        ];
        for other in others {
            assert_ne!(
                hashes[0],
                meaning_hash(&parse(other.as_bytes()).unwrap()),
                "{other}"
            );
        }
    }
}
