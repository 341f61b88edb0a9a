//! Root disks of a host: an overlay each on an image's file.
//!
//! A disk is there wholly or not at all. It grows and never shrinks: what a guest wrote isn't cut off. The image below it was
//! checked when it came, and is not opened here. What a disk stands on is told by its record, and by its file where that is lost.

use super::files::{self, Layout, storage};
use super::image::Images;
use super::qcow2;
use super::spawn::{self, Identity, Surroundings, argv};
use crate::driver::{Effect, Held, Seen, StepError};
use rhyzome_model::ids::ResourceId;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::ImageFormat;
use rhyzome_model::step::{EnsureDisk, ObjectKind, RemoveDisk};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_mins(1);

/// Bytes in a GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) image_sha256: String,
    pub(crate) image_format: ImageFormat,
    pub(crate) size_gib: u32,
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> StepError {
    StepError::new(
        ErrorClass::Permanent,
        "DISK_DAMAGED",
        "the disk's file on the host is damaged, and is left as it is",
    )
    .inside(format_args!("{}: {why}", path.display()))
}

fn record_of(layout: &Layout, id: ResourceId) -> Result<Option<Disk>, StepError> {
    files::read_or_lost(&layout.disk_record(id))
}

/// Every disk of which there is anything.
fn known(layout: &Layout) -> Result<BTreeSet<ResourceId>, StepError> {
    let mut ids = files::ids_in(&layout.disks(), ".json")?;
    ids.extend(files::ids_in(&layout.disks(), ".qcow2")?);
    Ok(ids.into_iter().collect())
}

/// The disks that stand on an image's file, or may: whatever is recorded of images.
pub(crate) fn standing_on(layout: &Layout, sha256: &str) -> Result<BTreeSet<ResourceId>, StepError> {
    let mut standing = BTreeSet::new();
    for id in known(layout)? {
        if stands_on(layout, id, sha256)? {
            standing.insert(id);
        }
    }
    Ok(standing)
}

fn stands_on(layout: &Layout, id: ResourceId, sha256: &str) -> Result<bool, StepError> {
    // Its guest is started on what the record says, not on what the file does.
    if let Some(disk) = record_of(layout, id)? {
        return Ok(disk.image_sha256 == sha256);
    }
    let file = layout.disk(id);
    match qcow2::backing_file(&file) {
        Ok(below) => Ok(below.is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(sha256)))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "it can't be told what a disk stands on: no image's file goes while it is there");
            Ok(true)
        }
    }
}

/// All disks of a host.
pub(crate) struct Disks {
    layout: Layout,
}

impl Disks {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// What a disk is, if it is here.
    pub(crate) fn get(&self, id: ResourceId) -> Result<Option<Disk>, StepError> {
        if !self.layout.disk(id).is_file() {
            return Ok(None);
        }
        record_of(&self.layout, id)
    }

    /// What a guest boots from. An error that says what of it is not here.
    pub(crate) fn bootable(&self, id: ResourceId) -> Result<Disk, StepError> {
        let disk = self.get(id)?.ok_or_else(StepError::disk_missing)?;
        if self.layout.image_file(&disk.image_sha256).is_file() {
            Ok(disk)
        } else {
            Err(StepError::image_lost())
        }
    }

    /// Makes it; `owner` is the user of the guest that will use it. The size that it has to grow to, where it is there and smaller.
    pub(crate) async fn ensure(
        &self,
        action: &EnsureDisk,
        images: &Images,
        owner: Option<Identity>,
    ) -> Result<Option<u32>, StepError> {
        let is = match self.get(action.disk)? {
            Some(disk) => Some(disk),
            None => self.take_in(action, owner)?,
        };
        if let Some(disk) = is.filter(|disk| disk.image_sha256 == action.image_sha256) {
            return Ok((disk.size_gib < action.size_gib).then_some(action.size_gib));
        }
        let Some(image) = images.by_digest(&action.image_sha256)? else {
            return Err(StepError::new(
                ErrorClass::Unavailable,
                "IMAGE_NOT_HERE",
                "the disk's image is not on the host yet",
            ));
        };
        let virtual_size = image.facts.virtual_size_bytes;
        if virtual_size > u64::from(action.size_gib) * GIB {
            return Err(StepError::new(
                ErrorClass::Permanent,
                "IMAGE_LARGER_THAN_DISK",
                format!(
                    "the image needs {} GiB, and the disk has {}",
                    virtual_size.div_ceil(GIB),
                    action.size_gib
                ),
            ));
        }
        self.create(action, owner).await?;
        Ok(None)
    }

    /// GiB of a disk's file, where there is one: qcow2's header has the size as its bytes 24 to 31 (QEMU, docs/interop/qcow2.txt).
    fn size_of_file(&self, id: ResourceId) -> Result<Option<u32>, StepError> {
        let path = self.layout.disk(id);
        let mut header = [0u8; 32];
        let read = match std::fs::File::open(&path) {
            Ok(mut file) => file.read_exact(&mut header),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => Err(e),
        };
        let size = header
            .last_chunk::<8>()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        match read {
            Ok(()) if header.starts_with(b"QFI\xfb") => u32::try_from(size / GIB)
                .map(Some)
                .map_err(|e| damaged(&path, &e)),
            Ok(()) => Err(damaged(&path, &"it is no qcow2")),
            Err(e) => Err(damaged(&path, &e)),
        }
    }

    /// A file whose record was lost stays as it is, and gets one: what was written to it is the user's. None where there is no file.
    fn take_in(&self, action: &EnsureDisk, owner: Option<Identity>) -> Result<Option<Disk>, StepError> {
        let Some(size_gib) = self.size_of_file(action.disk)? else {
            return Ok(None);
        };
        files::give(&self.layout.disk(action.disk), owner)?;
        let record = Disk {
            image_sha256: action.image_sha256.clone(),
            image_format: action.image_format,
            size_gib,
        };
        files::write_record(&self.layout.disk_record(action.disk), &record)?;
        Ok(Some(record))
    }

    async fn create(&self, action: &EnsureDisk, owner: Option<Identity>) -> Result<(), StepError> {
        let folder = self.layout.disks();
        let temp = folder.join(format!(".new-{}", action.disk));
        files::remove_file(&temp)?;
        let backing = self.layout.image_file(&action.image_sha256);
        // `-u`: the file below is not opened; it was looked at when it came, by a user with no rights.
        let args = argv![
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-F",
            action.image_format.as_str(),
            "-b",
            backing.display(),
            "--",
            temp.display(),
            format!("{}G", action.size_gib),
        ];
        spawn::must("qemu-img", &args, None, Surroundings::default(), WITHIN).await?;
        files::give(&temp, owner)?;
        let finish = || -> std::io::Result<()> {
            std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o600))?;
            std::fs::File::open(&temp)?.sync_all()
        };
        finish().map_err(|e| storage("making a disk", &temp, &e))?;
        let record = Disk {
            image_sha256: action.image_sha256.clone(),
            image_format: action.image_format,
            size_gib: action.size_gib,
        };
        files::write_record(&self.layout.disk_record(action.disk), &record)?;
        let file = self.layout.disk(action.disk);
        files::keep(&temp, &file).map_err(|e| storage("making a disk", &file, &e))
    }

    /// Makes the file larger, while no guest has it open.
    pub(crate) async fn grow_file(
        &self,
        id: ResourceId,
        size_gib: u32,
        owner: Option<Identity>,
    ) -> Result<(), StepError> {
        // Run as the disk's user: the guest could write to this file.
        let args = argv![
            "resize",
            "-q",
            "-f",
            "qcow2",
            "--",
            format!("./{id}.qcow2"),
            format!("{size_gib}G")
        ];
        let around = Surroundings {
            identity: owner,
            folder: Some(self.layout.disks()),
            ..Surroundings::default()
        };
        spawn::must("qemu-img", &args, None, around, WITHIN)
            .await
            .map(drop)
    }

    /// Notes that it has grown.
    pub(crate) fn grown(&self, id: ResourceId, size_gib: u32) -> Result<(), StepError> {
        match self.get(id)? {
            Some(disk) => files::write_record(&self.layout.disk_record(id), &Disk { size_gib, ..disk }),
            None => Ok(()),
        }
    }

    pub(crate) fn observe(&self, action: &EnsureDisk) -> Result<Seen, StepError> {
        let so = self
            .get(action.disk)?
            .is_some_and(|d| d.image_sha256 == action.image_sha256 && d.size_gib >= action.size_gib);
        Ok(if so { Seen::StillSo } else { Seen::NotSo })
    }

    pub(crate) fn is_gone(&self, id: ResourceId) -> bool {
        !self.layout.disk(id).exists() && !self.layout.disk_record(id).exists()
    }

    pub(crate) fn remove(&self, action: &RemoveDisk) -> Result<Effect, StepError> {
        files::remove_file(&self.layout.disks().join(format!(".new-{}", action.disk)))?;
        files::remove_file(&self.layout.disk(action.disk))?;
        files::remove_file(&self.layout.disk_record(action.disk))?;
        Ok(Effect {
            detail: "the disk is gone".to_owned(),
            ..Effect::default()
        })
    }

    pub(crate) fn inventory(&self) -> Result<Vec<Held>, StepError> {
        let mut all = Vec::new();
        for id in known(&self.layout)? {
            let state = match (self.layout.disk(id).is_file(), self.get(id)?) {
                (true, Some(_)) => "ready",
                (true, None) => "unrecorded",
                (false, _) => "unknown",
            };
            all.push(Held {
                kind: ObjectKind::Disk,
                id,
                state: state.to_owned(),
                claims: Vec::new(),
                generation: 0,
                facts: BTreeMap::new(),
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An overlay's beginning, as QEMU writes it: the name stands behind the header.
    fn overlay(below: &str) -> Vec<u8> {
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend(104u64.to_be_bytes());
        head.extend(u32::try_from(below.len()).unwrap().to_be_bytes());
        head.resize(104, 0);
        head.extend(below.as_bytes());
        head
    }

    #[test]
    fn a_disk_stands_on_what_its_record_says_or_else_its_file_or_else_on_anything() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path().to_owned()).unwrap();
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        let record = |sha256: &str| {
            let disk = Disk {
                image_sha256: sha256.to_owned(),
                image_format: ImageFormat::Raw,
                size_gib: 1,
            };
            serde_json::to_vec(&disk).unwrap()
        };
        let alone = [overlay("x")[..8].to_vec(), vec![0; 96]].concat();
        let table = [
            (Some(record(&one)), Some(overlay(&other)), true, false),
            (Some(record(&one)), None, true, false),
            (None, Some(overlay(&format!("/elsewhere/{one}"))), true, false),
            (Some(b"{".to_vec()), Some(overlay(&other)), false, true),
            (None, Some(alone), false, false),
            (None, Some(b"garbage".to_vec()), true, true),
            (Some(b"{".to_vec()), None, false, false),
        ];
        for (record, file, on_one, on_other) in table {
            let id = ResourceId::new();
            for (path, bytes) in [(layout.disk_record(id), &record), (layout.disk(id), &file)] {
                if let Some(bytes) = bytes {
                    std::fs::write(path, bytes).unwrap();
                }
            }
            for (sha256, stands) in [(&one, on_one), (&other, on_other)] {
                let standing = standing_on(&layout, sha256).unwrap();
                assert_eq!(standing.contains(&id), stands, "{record:?} {file:?}");
            }
        }
    }
}
