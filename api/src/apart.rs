//! What an instance is kept apart from is no dependency: it may go at any time, and is dropped then.
//!
//! It is dropped where a spec is read, and stays in the row until that is written again. At the delete, all that name it would have to be
//! found and written, and each write would be new intent: their `ETag` would change, and they would lag, by what was asked of another.

use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::APART_FROM;
use rhyzome_store::rows::ResourceRow;
use rhyzome_store::{Store, StoreError};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Ids, as a spec has them, of what is gone.
pub type Gone = BTreeSet<String>;

/// By ids, once a spec was accepted.
fn named(spec: &Value) -> impl Iterator<Item = &str> {
    let others = spec.pointer(APART_FROM).and_then(Value::as_array);
    others.into_iter().flatten().filter_map(Value::as_str)
}

/// What of this is gone that these specs name.
pub async fn gone(store: &Store, specs: impl Iterator<Item = &Value>) -> Result<Gone, StoreError> {
    let named: BTreeSet<ResourceId> = specs.flat_map(named).filter_map(|id| id.parse().ok()).collect();
    if named.is_empty() {
        return Ok(Gone::new());
    }
    let ids: Vec<ResourceId> = named.iter().copied().collect();
    let there: BTreeSet<ResourceId> = store.resources_there(&ids).await?.into_iter().collect();
    Ok(named.difference(&there).map(ToString::to_string).collect())
}

/// What of it a spec names.
pub fn of(spec: &Value, gone: &Gone) -> Gone {
    let named = named(spec).filter(|id| gone.contains(*id));
    named.map(ToOwned::to_owned).collect()
}

/// A spec without it.
pub fn without<'a>(spec: &'a Value, gone: &Gone) -> Cow<'a, Value> {
    if !named(spec).any(|id| gone.contains(id)) {
        return Cow::Borrowed(spec);
    }
    let mut spec = spec.clone();
    if let Some(others) = spec.pointer_mut(APART_FROM).and_then(Value::as_array_mut) {
        others.retain(|id| id.as_str().is_none_or(|id| !gone.contains(id)));
    }
    // None are not written.
    if named(&spec).next().is_none()
        && let Some((parent, field)) = APART_FROM.rsplit_once('/')
        && let Some(fields) = spec.pointer_mut(parent).and_then(Value::as_object_mut)
    {
        fields.remove(field);
    }
    Cow::Owned(spec)
}

/// A resource, its spec without it.
pub fn row_without<'a>(row: &'a ResourceRow, gone: &Gone) -> Cow<'a, ResourceRow> {
    match without(&row.spec, gone) {
        Cow::Borrowed(_) => Cow::Borrowed(row),
        Cow::Owned(spec) => Cow::Owned(ResourceRow { spec, ..row.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Gone, of, without};
    use serde_json::json;

    #[test]
    fn what_is_gone_is_dropped_and_nothing_else() {
        let gone = Gone::from(["a".to_owned(), "c".to_owned()]);
        let spec =
            |others| json!({"vcpus": 1, "placement": {"host_labels": {"zone": "a"}, "apart_from": others}});
        assert_eq!(*without(&spec(json!(["a", "b"])), &gone), spec(json!(["b"])));
        assert_eq!(*without(&spec(json!(["b"])), &gone), spec(json!(["b"])));
        let none = json!({"vcpus": 1, "placement": {"host_labels": {"zone": "a"}}});
        assert_eq!(*without(&spec(json!(["c", "a"])), &gone), none);
        assert_eq!(*without(&none, &gone), none);
        assert_eq!(of(&spec(json!(["a", "b"])), &gone), Gone::from(["a".to_owned()]));
    }
}
