//! A kind without its type, on JSON documents.

use super::{Demand, Kind, KindDef, LeaseRequest, PlanError, Reference, Resolved, Venue, When};
use crate::job::Action;
use crate::problem::FieldError;
use crate::step::Step;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// [`KindDef`] without its type, on JSON documents that [`KindOps::parse`] has accepted.
pub trait KindOps: Send + Sync {
    /// Which it is.
    fn kind(&self) -> Kind;
    /// Actions beside create, update and delete.
    fn actions(&self) -> &'static [Action];
    /// JSON Schema (2020-12) of the spec, self-contained.
    fn schema(&self) -> &'static Value;
    /// Checks a spec against its schema: every fault at once (400), pointers beginning with `/spec`; the spec with its defaults filled in.
    fn parse(&self, spec: &Value) -> Result<Value, Vec<FieldError>>;
    /// Faults (400) of what a merge patch of the spec takes away: fields that the schema doesn't know, pointers beginning with `/spec`.
    fn unknown_nulls(&self, patch: &Value) -> Vec<FieldError>;
    /// Faults of meaning (422), pointers beginning with `/spec`. `before` is the spec that it updates.
    fn validate(&self, spec: &Value, before: Option<&Value>) -> Result<Vec<FieldError>, PlanError>;
    /// See [`KindDef::references`].
    fn references(&self, spec: &Value) -> Result<Vec<Reference>, PlanError>;
    /// See [`KindDef::lease_requests`].
    fn lease_requests(&self, spec: &Value) -> Result<Vec<LeaseRequest>, PlanError>;
    /// See [`KindDef::demand`].
    fn demand(&self, spec: &Value) -> Result<Demand, PlanError>;
    /// See [`KindDef::demand_resolved`].
    fn demand_resolved(&self, resolved: &Resolved) -> Result<Demand, PlanError>;
    /// See [`KindDef::least_resolved`].
    fn least_resolved(&self, resolved: &Resolved) -> Result<Demand, PlanError>;
    /// See [`KindDef::apart_from`].
    fn apart_from(&self, spec: &Value) -> Result<Vec<Reference>, PlanError>;
    /// See [`KindDef::host_labels`].
    fn host_labels(&self, spec: &Value) -> Result<BTreeMap<String, String>, PlanError>;
    /// See [`KindDef::venue`].
    fn venue(&self, action: Action) -> Venue;
    /// See [`KindDef::apply_action`].
    fn apply_action(&self, spec: &Value, action: Action) -> Result<Value, PlanError>;
    /// What an action is planned against: for start and stop see [`KindDef::as_seen`], else what is applied.
    fn planned_against(
        &self,
        action: Action,
        applied: Option<&Value>,
        observed: Option<&Value>,
    ) -> Result<Option<Value>, PlanError>;
    /// See [`KindDef::stand_in`].
    fn stand_in(&self) -> Result<Value, PlanError>;
    /// See [`KindDef::plan`].
    fn plan(&self, action: Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError>;
    /// See [`KindDef::step_names`].
    fn step_names(
        &self,
        action: Action,
        spec: &Value,
        applied: Option<&Value>,
    ) -> Result<Vec<&'static str>, PlanError>;
}

pub(super) struct Typed<K>(std::marker::PhantomData<K>);

impl<K> Typed<K> {
    pub(super) const NEW: Self = Self(std::marker::PhantomData);
}

pub(super) fn read<K: KindDef + ?Sized>(spec: &Value) -> Result<K::Spec, PlanError> {
    K::Spec::deserialize(spec).map_err(|source| PlanError::Spec {
        kind: K::KIND,
        source,
    })
}

fn write<K: KindDef>(spec: &K::Spec) -> Result<Value, PlanError> {
    serde_json::to_value(spec).map_err(|source| PlanError::Spec {
        kind: K::KIND,
        source,
    })
}

impl<K: KindDef> KindOps for Typed<K> {
    fn kind(&self) -> Kind {
        K::KIND
    }
    fn actions(&self) -> &'static [Action] {
        K::ACTIONS
    }
    fn schema(&self) -> &'static Value {
        crate::schema::of::<K>()
    }
    fn parse(&self, spec: &Value) -> Result<Value, Vec<FieldError>> {
        let faults = crate::schema::check(self.schema(), spec, "/spec");
        if !faults.is_empty() {
            return Err(faults);
        }
        let invalid = |e: PlanError| vec![FieldError::new("/spec", "INVALID", e.to_string())];
        let typed = read::<K>(spec).map_err(invalid)?;
        write::<K>(&typed).map_err(invalid)
    }
    fn unknown_nulls(&self, patch: &Value) -> Vec<FieldError> {
        crate::schema::unknown_nulls(self.schema(), patch, "/spec")
    }
    fn validate(&self, spec: &Value, before: Option<&Value>) -> Result<Vec<FieldError>, PlanError> {
        let spec = read::<K>(spec)?;
        let before = before.map(read::<K>).transpose()?;
        let faults = K::validate(&spec, before.as_ref().map_or(When::Creating, When::Updating));
        Ok(faults
            .into_iter()
            .map(|f| FieldError {
                pointer: format!("/spec{}", f.pointer),
                ..f
            })
            .collect())
    }
    fn references(&self, spec: &Value) -> Result<Vec<Reference>, PlanError> {
        read::<K>(spec).map(|s| K::references(&s))
    }
    fn lease_requests(&self, spec: &Value) -> Result<Vec<LeaseRequest>, PlanError> {
        read::<K>(spec).map(|s| K::lease_requests(&s))
    }
    fn demand(&self, spec: &Value) -> Result<Demand, PlanError> {
        read::<K>(spec).map(|s| K::demand(&s))
    }
    fn demand_resolved(&self, resolved: &Resolved) -> Result<Demand, PlanError> {
        K::demand_resolved(resolved)
    }
    fn least_resolved(&self, resolved: &Resolved) -> Result<Demand, PlanError> {
        K::least_resolved(resolved)
    }
    fn apart_from(&self, spec: &Value) -> Result<Vec<Reference>, PlanError> {
        read::<K>(spec).map(|s| K::apart_from(&s))
    }
    fn host_labels(&self, spec: &Value) -> Result<BTreeMap<String, String>, PlanError> {
        read::<K>(spec).map(|s| K::host_labels(&s))
    }
    fn venue(&self, action: Action) -> Venue {
        K::venue(action)
    }
    fn apply_action(&self, spec: &Value, action: Action) -> Result<Value, PlanError> {
        let mut typed = read::<K>(spec)?;
        K::apply_action(&mut typed, action);
        write::<K>(&typed)
    }
    fn planned_against(
        &self,
        action: Action,
        applied: Option<&Value>,
        observed: Option<&Value>,
    ) -> Result<Option<Value>, PlanError> {
        let seen = match action {
            Action::Start | Action::Stop => observed,
            Action::Create | Action::Update | Action::Reboot | Action::Delete | Action::Repair => None,
        };
        let (Some(applied), Some(seen)) = (applied, seen) else {
            return Ok(applied.cloned());
        };
        write::<K>(&K::as_seen(action, read::<K>(applied)?, seen)).map(Some)
    }
    fn stand_in(&self) -> Result<Value, PlanError> {
        write::<K>(&K::stand_in())
    }
    fn plan(&self, action: Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
        K::plan(action, resolved)
    }
    fn step_names(
        &self,
        action: Action,
        spec: &Value,
        applied: Option<&Value>,
    ) -> Result<Vec<&'static str>, PlanError> {
        let applied = applied.map(read::<K>).transpose()?;
        Ok(K::step_names(action, &read::<K>(spec)?, applied.as_ref()))
    }
}
