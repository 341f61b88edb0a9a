//! What an instance's image needs of it at least: memory, and the size of the root disk.
//!
//! An image that is still being fetched has no size yet; then nothing is judged, and its disk is made large enough. Images are
//! remembered for [`FRESH`], so that a burst of creates doesn't read the same one again and again; what is changed by way of another
//! process counts that much later.

use crate::ctx::Ctx;
use crate::problem::Problem;
use rhyzome_model::ids::TenantId;
use rhyzome_model::kinds::{ImageSpec, InstanceSpec, Kind, PlanError};
use rhyzome_model::problem::FieldError;
use rhyzome_model::step::ImageFacts;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an image is remembered.
const FRESH: Duration = Duration::from_secs(2);
/// How many are remembered.
const KNOWN_MAX: usize = 1_000;

/// Images that were read a moment ago, by whose word and which.
#[derive(Debug, Default)]
pub struct ImageFloors(Mutex<HashMap<(TenantId, String), Known>>);

#[derive(Clone, Debug)]
struct Known {
    floor: Option<(ImageSpec, ImageFacts)>,
    read_at: Instant,
}

impl ImageFloors {
    /// An image was changed here: what it needs counts at once.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Refuses an instance that is smaller than its image needs (422).
pub async fn check(ctx: &Ctx, kind: Kind, spec: &Value) -> Result<(), Problem> {
    match kind {
        Kind::Network | Kind::Image => Ok(()),
        Kind::Instance => {
            let spec = InstanceSpec::deserialize(spec).map_err(|source| PlanError::Spec { kind, source })?;
            let Some((image, facts)) = floor(ctx, &spec.image).await? else {
                return Ok(());
            };
            let faults = spec.image_faults(&image, &facts);
            if faults.is_empty() {
                return Ok(());
            }
            let in_document = |f: FieldError| FieldError {
                pointer: format!("/spec{}", f.pointer),
                ..f
            };
            Err(Problem::validation(faults.into_iter().map(in_document).collect()))
        }
    }
}

async fn floor(ctx: &Ctx, image: &str) -> Result<Option<(ImageSpec, ImageFacts)>, Problem> {
    let key = (ctx.caller.tenant.clone(), image.to_owned());
    let floors = &ctx.app.image_floors.0;
    let known = floors
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
        .cloned();
    if let Some(known) = known.filter(|known| known.read_at.elapsed() < FRESH) {
        return Ok(known.floor);
    }
    let row = ctx.app.store.resource_find(&key.0, Kind::Image, image).await?;
    let floor = row.and_then(|row| {
        let facts = ImageFacts::deserialize(row.facts?).ok()?;
        Some((ImageSpec::deserialize(&row.spec).ok()?, facts))
    });
    let mut floors = floors.lock().unwrap_or_else(PoisonError::into_inner);
    if floors.len() >= KNOWN_MAX {
        floors.clear();
    }
    floors.insert(
        key,
        Known {
            floor: floor.clone(),
            read_at: Instant::now(),
        },
    );
    Ok(floor)
}
