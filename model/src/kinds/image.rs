//! An image: what a disk begins as. Making it fetches its bytes to one host, checks them and freezes their digest; other hosts
//! fetch that digest when an instance needs it.

use super::{Demand, Kind, KindDef, LeaseRequest, PlanError, Reference, Resolved, Venue, When};
use crate::ids::{HostName, ResourceId};
use crate::job;
use crate::problem::FieldError;
use crate::step::{Action, DropShared, EnsureImage, ImageFacts, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of a GiB.
const GIB: u64 = 1 << 30;
/// The largest disk that an image may ask for, GiB.
const MIN_DISK_MAX_GIB: u32 = 65_536;
/// The largest memory that an image may ask for, MiB.
const MIN_MEMORY_MAX_MIB: u32 = 16 * 1024 * 1024;
/// Longest name of a file in the operator's folder: NAME_MAX of Linux.
const FILE_NAME_MAX: usize = 255;
/// Longest URL.
const URL_MAX: usize = 2048;

/// What a user asks for in an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// Where its bytes come from.
    pub source: ImageSource,
    /// What the bytes are; another is refused.
    pub format: ImageFormat,
    /// SHA-256 that the bytes must have, 64 hex digits; whatever came where it isn't given.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "digest")]
    #[schema(format = "sha256")]
    pub sha256: Option<String>,
    /// Who may use it.
    #[serde(default)]
    pub visibility: Visibility,
    /// The smallest root disk of an instance, GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_disk_gib: Option<u32>,
    /// The smallest memory of an instance, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory_mib: Option<u32>,
}

/// Where an image's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageSource {
    /// An https URL; http only where the operator allows it.
    Url(String),
    /// A bare name in the operator's image folder; for operators.
    File(String),
    /// A snapshot, by id or name.
    Snapshot(String),
}

/// The layout of an image's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
}

impl ImageFormat {
    /// As stored and shown, and as qemu-img knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// Who may use an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// The tenant that it belongs to.
    #[default]
    Private,
    /// Every tenant; only of the tenant `system`.
    Public,
}

/// What is known of an image once it was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageStatus {
    /// SHA-256 of the file's bytes, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Of the disk in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size_bytes: Option<u64>,
    /// Where it was fetched first; shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
}

impl ImageSpec {
    /// The smallest root disk that an instance of this image may have, GiB.
    pub fn smallest_disk_gib(&self, facts: &ImageFacts) -> u32 {
        let virtual_gib = u32::try_from(facts.virtual_size_bytes.div_ceil(GIB)).unwrap_or(u32::MAX);
        virtual_gib.max(self.min_disk_gib.unwrap_or(1)).max(1)
    }
}

/// What keeping an image's file takes of a host's disk, GiB.
pub fn kept_gib(facts: &ImageFacts) -> i64 {
    i64::try_from(facts.size_bytes.div_ceil(GIB))
        .unwrap_or(i64::MAX)
        .max(1)
}

/// The kind `image`.
#[derive(Debug)]
pub struct Image;

pub(super) fn read(spec: &serde_json::Value) -> Result<ImageSpec, PlanError> {
    ImageSpec::deserialize(spec).map_err(|source| PlanError::Spec {
        kind: Kind::Image,
        source,
    })
}

/// The step that keeps an image on a host for a claiming resource; `sha256` as frozen when it is known.
pub(super) fn ensure(
    image: ResourceId,
    spec: &ImageSpec,
    sha256: Option<String>,
    holder: ResourceId,
) -> Action {
    Action::EnsureImage(EnsureImage {
        image,
        source: spec.source.clone(),
        format: spec.format,
        sha256,
        holder,
    })
}

fn digest<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(|s| s.to_ascii_lowercase()))
}

impl KindDef for Image {
    type Spec = ImageSpec;
    const KIND: Kind = Kind::Image;
    const ACTIONS: &'static [job::Action] = &[];

    fn validate(spec: &ImageSpec, when: When<'_, ImageSpec>) -> Vec<FieldError> {
        let mut faults = Vec::new();
        faults.extend(source_fault(&spec.source));
        let bounds = [
            ("/min_disk_gib", spec.min_disk_gib, MIN_DISK_MAX_GIB, "GiB"),
            ("/min_memory_mib", spec.min_memory_mib, MIN_MEMORY_MAX_MIB, "MiB"),
        ];
        for (pointer, value, max, unit) in bounds {
            if let Some(value) = value.filter(|v| !(1..=max).contains(v)) {
                let detail = format!("{value} {unit}; it must be from 1 to {max}");
                faults.push(FieldError::new(pointer, "OUT_OF_RANGE", detail));
            }
        }
        if let When::Updating(before) = when {
            let fixed = [
                ("/source", "source", spec.source != before.source),
                ("/format", "format", spec.format != before.format),
                ("/sha256", "digest", spec.sha256 != before.sha256),
            ];
            for (pointer, what, changed) in fixed {
                if changed {
                    let detail = format!("the {what} of an image can't be changed; make a new image");
                    faults.push(FieldError::new(pointer, "IMMUTABLE", detail));
                }
            }
        }
        faults
    }

    fn references(_: &ImageSpec) -> Vec<Reference> {
        Vec::new()
    }

    fn lease_requests(_: &ImageSpec) -> Vec<LeaseRequest> {
        Vec::new()
    }

    /// The size is known only when the bytes are there: one GiB, or what the image says that its disks need.
    fn demand(spec: &ImageSpec) -> Demand {
        Demand {
            disk_gib: i64::from(spec.min_disk_gib.unwrap_or(1)),
            ..Demand::default()
        }
    }

    fn host_labels(_: &ImageSpec) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn venue(action: job::Action) -> Venue {
        match action {
            job::Action::Create => Venue::Placed,
            job::Action::Update
            | job::Action::Delete
            | job::Action::Repair
            | job::Action::Start
            | job::Action::Stop
            | job::Action::Reboot => Venue::WhereItIs,
        }
    }

    fn apply_action(_: &mut ImageSpec, _: job::Action) {}

    fn stand_in() -> ImageSpec {
        ImageSpec {
            source: ImageSource::File("unknown".to_owned()),
            format: ImageFormat::Raw,
            sha256: None,
            visibility: Visibility::default(),
            min_disk_gib: None,
            min_memory_mib: None,
        }
    }

    fn plan(action: job::Action, resolved: &Resolved) -> Result<Vec<Step>, PlanError> {
        let id = resolved.id;
        let drop = || {
            Action::DropImage(DropShared {
                object: id,
                holder: id,
            })
        };
        match action {
            job::Action::Create => {
                let spec = read(&resolved.spec)?;
                let sha256 = spec.sha256.clone();
                Ok(vec![Step::undoable(ensure(id, &spec, sha256, id), drop())])
            }
            job::Action::Update => Ok(Vec::new()),
            job::Action::Delete => Ok(resolved.host.iter().map(|_| Step::forward_only(drop())).collect()),
            job::Action::Repair => match resolved.host {
                Some(_) => {
                    let spec = read(&resolved.spec)?;
                    let frozen = resolved.references.get(&id).and_then(|r| r.image.as_ref());
                    let sha256 = frozen.map(|f| f.sha256.clone()).or_else(|| spec.sha256.clone());
                    Ok(vec![Step::forward_only(ensure(id, &spec, sha256, id))])
                }
                None => Ok(Vec::new()),
            },
            job::Action::Start | job::Action::Stop | job::Action::Reboot => Err(PlanError::NoSuchAction {
                kind: Kind::Image,
                action,
            }),
        }
    }

    fn step_names(action: job::Action, _: &ImageSpec, _: Option<&ImageSpec>) -> Vec<&'static str> {
        match action {
            job::Action::Create | job::Action::Repair => vec!["ensure_image"],
            job::Action::Delete => vec!["drop_image"],
            job::Action::Update | job::Action::Start | job::Action::Stop | job::Action::Reboot => Vec::new(),
        }
    }
}

fn source_fault(source: &ImageSource) -> Option<FieldError> {
    match source {
        ImageSource::Url(url) => url_fault(url),
        ImageSource::File(name) => (!is_bare_name(name)).then(|| {
            let detail = format!(
                "{name:?} is not a bare file name: no folders, no leading dot, {FILE_NAME_MAX} bytes at most"
            );
            FieldError::new("/source/file", "INVALID_FILE_NAME", detail)
        }),
        ImageSource::Snapshot(_) => {
            let detail = "images of snapshots are not supported yet; give a url or a file";
            Some(FieldError::new("/source/snapshot", "NOT_SUPPORTED", detail))
        }
    }
}

/// Whether a text names a file in a folder and nothing outside of it.
fn is_bare_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= FILE_NAME_MAX
        && !name.starts_with('.')
        && !name.starts_with('-')
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}

/// Scheme and authority; whether the operator allows http, and what the name resolves to, is the agent's to judge.
fn url_fault(url: &str) -> Option<FieldError> {
    let fault = |code, detail: String| Some(FieldError::new("/source/url", code, detail));
    if url.len() > URL_MAX {
        return fault(
            "INVALID_URL",
            format!("the URL has {} bytes; it may have {URL_MAX}", url.len()),
        );
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return fault(
            "INVALID_URL",
            "the URL has a space or a control character in it".to_owned(),
        );
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return fault(
            "INVALID_URL",
            format!("{url:?} is not a URL such as https://example.org/image.qcow2"),
        );
    };
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return fault(
            "UNSUPPORTED_SCHEME",
            format!("{scheme:?} is not a scheme to fetch from; take https"),
        );
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return fault(
            "INVALID_URL",
            "a URL with credentials in it is refused".to_owned(),
        );
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            host
        } else {
            authority
        }
    });
    if host.is_empty() {
        return fault("INVALID_URL", format!("{url:?} names no server"));
    }
    None
}
