//! Images of a host: a file per digest, held by claims of (image, resource), fetched and checked before anything may use it.
//!
//! A file comes under its digest only once it was hashed and looked at; half of one lies under a name of its own and is cleared
//! away at the next start. With the last claim of the last image that has the digest, the file goes, unless a disk stands on it: claims are
//! records, and records get lost; what a disk stands on is the data of its user.

use super::digest;
use super::disk;
use super::fetch::{self, FetchRules};
use super::files::{self, Layout, storage};
use super::qcow2;
use super::spawn::Identity;
use crate::driver::{Effect, Held, Seen, StepError};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::{ImageFormat, ImageSource};
use rhyzome_model::step::{DropShared, EnsureImage, ImageFacts, ObjectKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// What files that are still coming are called.
const COMING: &str = ".coming-";

/// An image on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) facts: ImageFacts,
    pub(crate) format: ImageFormat,
    claims: BTreeSet<ResourceId>,
}

/// All images of a host.
pub(crate) struct Images {
    layout: Layout,
    rules: FetchRules,
    identity: Option<Identity>,
    /// Taken when a file comes under its digest or goes: two images may have the same.
    files: tokio::sync::Mutex<()>,
}

impl Images {
    /// `identity` is who looks at files that nobody has looked at yet.
    pub(crate) fn new(layout: Layout, rules: FetchRules, identity: Option<Identity>) -> Self {
        Self {
            layout,
            rules,
            identity,
            files: tokio::sync::Mutex::new(()),
        }
    }

    /// Clears away what never came wholly.
    pub(crate) fn start(&self) -> Result<(), StepError> {
        let folder = self.layout.images();
        let entries = std::fs::read_dir(&folder).map_err(|e| storage("reading the images", &folder, &e))?;
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(COMING) {
                files::remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    fn get(&self, id: ResourceId) -> Result<Option<Image>, StepError> {
        files::read_or_lost(&self.layout.image_record(id))
    }

    fn file(&self, sha256: &str) -> PathBuf {
        self.layout.image_file(sha256)
    }

    /// An image by the digest of its file, if the file is here.
    pub(crate) fn by_digest(&self, sha256: &str) -> Result<Option<Image>, StepError> {
        if !self.file(sha256).is_file() {
            return Ok(None);
        }
        for id in files::ids_in(&self.layout.claims(), ".json")? {
            if let Some(image) = self.get(id)?
                && image.facts.sha256 == sha256
            {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    pub(crate) async fn ensure(
        &self,
        action: &EnsureImage,
        cancel: &CancellationToken,
    ) -> Result<Effect, StepError> {
        match self.ensure_here(action, cancel).await {
            Err(error) if self.is_elsewhere(action)? => Err(error.not_here()),
            done => done,
        }
    }

    /// Whether another host has the image for itself: the one that its create fetched it on and checked it.
    fn is_elsewhere(&self, action: &EnsureImage) -> Result<bool, StepError> {
        let here = self.get(action.image)?;
        Ok(action.holder != action.image && here.is_none_or(|i| !i.claims.contains(&action.image)))
    }

    async fn ensure_here(
        &self,
        action: &EnsureImage,
        cancel: &CancellationToken,
    ) -> Result<Effect, StepError> {
        if let Some(mut image) = self.get(action.image)?
            && self.file(&image.facts.sha256).is_file()
        {
            compare(action.sha256.as_deref(), &image.facts.sha256)?;
            self.same_format(action, &image).await?;
            image.claims.insert(action.holder);
            files::write_record(&self.layout.image_record(action.image), &image)?;
            return effect("the image is on the host", &image.facts);
        }
        // A frozen digest that is here already needs no fetching; a new image's source is always asked.
        if action.holder != action.image
            && let Some(digest) = &action.sha256
            && let Some(known) = self.by_digest(&digest.to_lowercase())?
        {
            self.same_format(action, &known).await?;
            let image = Image {
                claims: BTreeSet::from([action.holder]),
                format: action.format,
                ..known
            };
            let _files = self.files.lock().await;
            if self.file(&image.facts.sha256).is_file() {
                files::write_record(&self.layout.image_record(action.image), &image)?;
                return effect("the image's file is on the host already", &image.facts);
            }
        }
        if let Some(facts) = self.take_in(action, cancel).await? {
            return effect("the image's file is on the host already", &facts);
        }
        let facts = self.fetch(action, cancel).await?;
        effect("the image was fetched and checked", &facts)
    }

    /// Claims a file of which no record is left, if it still is what it was: where the image came from may be gone, and disks stand on the
    /// file. Not for an image itself: whoever says a digest must not get by it what is another's.
    async fn take_in(
        &self,
        action: &EnsureImage,
        cancel: &CancellationToken,
    ) -> Result<Option<ImageFacts>, StepError> {
        let Some(sha256) = action.sha256.as_ref().filter(|_| action.holder != action.image) else {
            return Ok(None);
        };
        let sha256 = sha256.to_lowercase();
        let file = self.file(&sha256);
        let Some(is) = digest::of_file(&file, cancel)
            .await?
            .filter(|is| is.sha256 == sha256)
        else {
            return Ok(None);
        };
        let facts = ImageFacts {
            sha256,
            size_bytes: is.size,
            virtual_size_bytes: qcow2::check(&file, action.format, self.identity).await?,
        };
        let _files = self.files.lock().await;
        if !file.is_file() {
            return Ok(None);
        }
        let image = Image {
            facts: facts.clone(),
            format: action.format,
            claims: BTreeSet::from([action.holder]),
        };
        files::write_record(&self.layout.image_record(action.image), &image)?;
        Ok(Some(facts))
    }

    /// A file that was taken as one format can be declared as another by another image.
    async fn same_format(&self, action: &EnsureImage, image: &Image) -> Result<(), StepError> {
        if action.format == image.format {
            return Ok(());
        }
        qcow2::check(&self.file(&image.facts.sha256), action.format, self.identity)
            .await
            .map(drop)
    }

    async fn fetch(&self, action: &EnsureImage, cancel: &CancellationToken) -> Result<ImageFacts, StepError> {
        let coming = self
            .layout
            .images()
            .join(format!("{COMING}{}-{}", action.image, uuid::Uuid::new_v4()));
        let done = self.fetch_to(action, &coming, cancel).await;
        files::remove_file(&coming)?;
        done
    }

    async fn fetch_to(
        &self,
        action: &EnsureImage,
        coming: &Path,
        cancel: &CancellationToken,
    ) -> Result<ImageFacts, StepError> {
        let fetched = match &action.source {
            ImageSource::Url(url) => fetch::from_url(url, coming, &self.rules, cancel).await?,
            ImageSource::File(name) => fetch::from_folder(name, coming, &self.rules, cancel).await?,
            ImageSource::Snapshot(_) => {
                return Err(StepError::new(
                    ErrorClass::Permanent,
                    "SOURCE_UNSUPPORTED",
                    "this host can't make images of snapshots",
                ));
            }
        };
        compare(action.sha256.as_deref(), &fetched.sha256)?;
        std::fs::set_permissions(coming, Permissions::from_mode(0o644))
            .map_err(|e| storage("setting an image's mode", coming, &e))?;
        let virtual_size_bytes = qcow2::check(coming, action.format, self.identity).await?;
        let facts = ImageFacts {
            sha256: fetched.sha256,
            size_bytes: fetched.size,
            virtual_size_bytes,
        };
        if cancel.is_cancelled() {
            return Err(fetch::cancelled());
        }
        let mut claims = self.get(action.image)?.map(|i| i.claims).unwrap_or_default();
        claims.insert(action.holder);
        let image = Image {
            facts: facts.clone(),
            format: action.format,
            claims,
        };
        let _files = self.files.lock().await;
        // The record comes first: a file without one would never go.
        files::write_record(&self.layout.image_record(action.image), &image)?;
        let file = self.file(&facts.sha256);
        files::keep(coming, &file).map_err(|e| storage("keeping an image", &file, &e))?;
        Ok(facts)
    }

    pub(crate) fn observe(&self, action: &EnsureImage) -> Result<Seen, StepError> {
        let image = self.get(action.image)?;
        let so =
            image.is_some_and(|i| i.claims.contains(&action.holder) && self.file(&i.facts.sha256).is_file());
        Ok(if so { Seen::StillSo } else { Seen::NotSo })
    }

    pub(crate) fn holds(&self, claim: &DropShared) -> Result<bool, StepError> {
        Ok(self
            .get(claim.object)?
            .is_some_and(|i| i.claims.contains(&claim.holder)))
    }

    pub(crate) async fn release(&self, claim: &DropShared) -> Result<Effect, StepError> {
        let record = self.layout.image_record(claim.object);
        let Some(mut image) = self.get(claim.object)? else {
            // A damaged one tells of no claims, and would keep every file.
            if record.is_file() {
                self.remove_nobodys(claim.object).await?;
            }
            files::remove_file(&record)?;
            return Ok(said("the image is not on the host"));
        };
        image.claims.remove(&claim.holder);
        if !image.claims.is_empty() {
            files::write_record(&record, &image)?;
            return Ok(said("the image stays: others use it"));
        }
        let _files = self.files.lock().await;
        let sha256 = &image.facts.sha256;
        if !self.is_anothers(claim.object, sha256)? {
            let standing = disk::standing_on(&self.layout, sha256)?;
            if !standing.is_empty() {
                tracing::error!(image = %claim.object, disks = ?standing, "disks without a claim stand on an image's file: it stays");
                image.claims = standing;
                files::write_record(&record, &image)?;
                return Ok(said("the image stays: disks stand on it"));
            }
            files::remove_file(&self.file(sha256))?;
        }
        files::remove_file(&record)?;
        Ok(said("the image is gone from the host"))
    }

    /// Whether a file is another image's, too, or may be: a damaged record doesn't tell.
    fn is_anothers(&self, id: ResourceId, sha256: &str) -> Result<bool, StepError> {
        for other in files::ids_in(&self.layout.claims(), ".json")? {
            if other != id && self.get(other)?.is_none_or(|i| i.facts.sha256 == sha256) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the files that are nobody's but for this image, whose damaged record doesn't tell which was its own.
    async fn remove_nobodys(&self, id: ResourceId) -> Result<(), StepError> {
        let _files = self.files.lock().await;
        let folder = self.layout.images();
        let failed = |e| storage("reading the images", &folder, &e);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(sha256) = name.to_str().filter(|n| digest::is_one(n)) else {
                continue;
            };
            if !self.is_anothers(id, sha256)? && disk::standing_on(&self.layout, sha256)?.is_empty() {
                tracing::warn!(image = %id, sha256, "an image's file goes that no record names and no disk stands on");
                files::remove_file(&self.file(sha256))?;
            }
        }
        Ok(())
    }

    pub(crate) fn inventory(&self) -> Result<Vec<Held>, StepError> {
        let mut all = Vec::new();
        for id in files::ids_in(&self.layout.claims(), ".json")? {
            let Some(image) = self.get(id)? else { continue };
            let state = if self.file(&image.facts.sha256).is_file() {
                "ready"
            } else {
                "unknown"
            };
            all.push(Held {
                kind: ObjectKind::Image,
                id,
                state: state.to_owned(),
                claims: image.claims.into_iter().collect(),
                generation: 0,
                facts: BTreeMap::from([("sha256".to_owned(), image.facts.sha256)]),
            });
        }
        Ok(all)
    }
}

fn compare(wanted: Option<&str>, is: &str) -> Result<(), StepError> {
    match wanted {
        Some(wanted) if !wanted.eq_ignore_ascii_case(is) => Err(StepError::new(
            ErrorClass::Permanent,
            "DIGEST_MISMATCH",
            format!(
                "the image's SHA-256 is {is}, and was said to be {}",
                wanted.to_lowercase()
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn said(detail: &str) -> Effect {
    Effect {
        detail: detail.to_owned(),
        output: serde_json::Value::Null,
    }
}

fn effect(detail: &str, facts: &ImageFacts) -> Result<Effect, StepError> {
    let output = serde_json::to_value(facts).map_err(|e| {
        StepError::new(
            ErrorClass::Permanent,
            "INTERNAL",
            "what was found out can't be written",
        )
        .inside(e)
    })?;
    Ok(Effect {
        detail: detail.to_owned(),
        output,
    })
}
