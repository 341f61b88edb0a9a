//! What a job that succeeded made so. A power action changes nothing but the power: after an update that failed, the rest of the
//! intent is still to be made. A repair makes what was applied, and nothing of the intent beyond it.

use rhyzome_model::job::Action;
use rhyzome_model::kinds::{Kind, PlanError};
use serde_json::Value;

/// The spec that is applied from now on, and the generation that it is all of; 0 where it isn't all of the job's.
pub fn made_so(
    kind: Kind,
    action: Action,
    spec: &Value,
    applied: Option<&Value>,
    generation: i64,
) -> Result<(Value, i64), PlanError> {
    match (action, applied) {
        (Action::Start | Action::Stop | Action::Reboot, Some(before)) => {
            let made = kind.ops().apply_action(before, action)?;
            let all = if made == *spec { generation } else { 0 };
            Ok((made, all))
        }
        (Action::Repair, _) => Ok((spec.clone(), 0)),
        (Action::Start | Action::Stop | Action::Reboot, None)
        | (Action::Create | Action::Update | Action::Delete, _) => Ok((spec.clone(), generation)),
    }
}
