//! What may be in an image's file: read from its first bytes by our own few lines, before any program opens it, and then again by
//! `qemu-img` under limits of memory, time and rights.
//!
//! Format: QEMU's docs/interop/qcow2.txt. A file that names other files (a backing file, a data file) would make QEMU open them on
//! the host; such a file is refused before anything follows the name.

use super::spawn::{self, Identity, Surroundings, argv};
use crate::driver::StepError;
use rhyzome_model::job::ErrorClass;
use rhyzome_model::kinds::ImageFormat;
use serde_json::Value;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Address space of the check, bytes.
const MEMORY_LIMIT: u64 = 1 << 30;
/// Processor time of the check, seconds.
const CPU_LIMIT: u64 = 20;
/// How much of a file's beginning is looked at.
const HEAD: u64 = 512;
/// Beginnings of formats that a file declared as raw may not have: magic, offset, name.
const OTHER_FORMATS: [(&[u8], usize, &str); 7] = [
    (b"QFI\xfb", 0, "qcow2"),
    (b"KDMV", 0, "vmdk"),
    (b"# Disk DescriptorFile", 0, "vmdk"),
    (b"vhdxfile", 0, "vhdx"),
    (b"conectix", 0, "vpc"),
    (b"\x7f\x10\xda\xbe", 64, "vdi"),
    (b"QED\0", 0, "qed"),
];

fn refused(code: &str, detail: impl Into<String>) -> StepError {
    StepError::new(ErrorClass::Permanent, code, detail)
}

/// The first bytes of a file.
pub(crate) fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(HEAD).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The name of the file that an overlay says it stands on, if it names one. An error where it is no qcow2.
pub(crate) fn backing_file(path: &Path) -> io::Result<Option<String>> {
    // By the format a name has no more bytes.
    const LONGEST: usize = 1023;
    let file = std::fs::File::open(path)?;
    let mut header = [0u8; 20];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"QFI\xfb") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no qcow2"));
    }
    let number = |at: usize, len: usize| {
        header[at..at + len]
            .iter()
            .fold(0u64, |n, b| n << 8 | u64::from(*b))
    };
    let (offset, length) = (number(8, 8), number(16, 4));
    if offset == 0 {
        return Ok(None);
    }
    let length = usize::try_from(length).unwrap_or(LONGEST).min(LONGEST);
    let mut name = vec![0; length];
    file.read_exact_at(&mut name, offset)?;
    String::from_utf8(name)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Pure: whether a file that begins so may be taken as this format.
pub(crate) fn check_head(format: ImageFormat, head: &[u8]) -> Result<(), StepError> {
    match format {
        ImageFormat::Raw => {
            let other = OTHER_FORMATS
                .iter()
                .find(|(magic, at, _)| head.get(*at..).is_some_and(|h| h.starts_with(magic)));
            match other {
                Some((_, _, name)) => Err(refused(
                    "SURPRISE_FORMAT",
                    format!("the image was declared as raw, and is a {name} file"),
                )),
                None if head.is_empty() => Err(refused("IMAGE_EMPTY", "the image's file is empty")),
                None => Ok(()),
            }
        }
        ImageFormat::Qcow2 => check_qcow2(head),
    }
}

fn check_qcow2(head: &[u8]) -> Result<(), StepError> {
    let not_one = || {
        refused(
            "SURPRISE_FORMAT",
            "the image was declared as qcow2, and is not a qcow2 file",
        )
    };
    if !head.starts_with(b"QFI\xfb") {
        return Err(not_one());
    }
    let number = |at: usize, len: usize| -> Option<u64> {
        Some(
            head.get(at..at + len)?
                .iter()
                .fold(0u64, |n, b| n << 8 | u64::from(*b)),
        )
    };
    let version = number(4, 4).ok_or_else(not_one)?;
    let backing = number(8, 8).ok_or_else(not_one)?;
    let crypt = number(32, 4).ok_or_else(not_one)?;
    if !(2..=3).contains(&version) {
        return Err(refused(
            "SURPRISE_FORMAT",
            format!("the image is a qcow2 file of the unknown version {version}"),
        ));
    }
    if backing != 0 {
        return Err(refused(
            "BACKING_FILE",
            "the image's file names a backing file: only files that stand alone are taken",
        ));
    }
    if crypt != 0 {
        return Err(refused("IMAGE_ENCRYPTED", "the image's file is encrypted"));
    }
    if version == 3 {
        let incompatible = number(72, 8).ok_or_else(not_one)?;
        if incompatible & 0b100 != 0 {
            return Err(refused(
                "DATA_FILE",
                "the image's file names an external data file: only files that stand alone are taken",
            ));
        }
        if incompatible & 0b10 != 0 {
            return Err(refused("IMAGE_CORRUPT", "the image's file is marked as corrupt"));
        }
    }
    Ok(())
}

/// Pure: what qemu-img said of it; the size of the disk in it, bytes.
fn check_info(format: ImageFormat, info: &Value) -> Result<u64, StepError> {
    let data = &info["format-specific"]["data"];
    let truth = |v: &Value| v.as_bool().unwrap_or(false);
    if info["format"].as_str() != Some(format.as_str()) {
        return Err(refused(
            "SURPRISE_FORMAT",
            format!(
                "the image was declared as {}, and is something else",
                format.as_str()
            ),
        ));
    }
    if !info["backing-filename"].is_null() || !info["full-backing-filename"].is_null() {
        return Err(refused(
            "BACKING_FILE",
            "the image's file names a backing file: only files that stand alone are taken",
        ));
    }
    if !data["data-file"].is_null() || truth(&data["data-file-raw"]) {
        return Err(refused(
            "DATA_FILE",
            "the image's file names an external data file: only files that stand alone are taken",
        ));
    }
    if truth(&info["encrypted"]) || !data["encrypt"].is_null() {
        return Err(refused("IMAGE_ENCRYPTED", "the image's file is encrypted"));
    }
    if truth(&data["corrupt"]) {
        return Err(refused("IMAGE_CORRUPT", "the image's file is marked as corrupt"));
    }
    match info["virtual-size"].as_u64() {
        Some(size) if size > 0 => Ok(size),
        Some(_) | None => Err(refused("IMAGE_EMPTY", "the image's disk has no size")),
    }
}

/// Looks at a file, which must be readable by `identity`; the size of the disk in it, bytes.
pub(crate) async fn check(
    path: &Path,
    format: ImageFormat,
    identity: Option<Identity>,
) -> Result<u64, StepError> {
    let head = head(path).map_err(|e| super::files::storage("reading an image", path, &e))?;
    check_head(format, &head)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(super::files::storage(
            "reading an image",
            path,
            &io::Error::from(io::ErrorKind::InvalidInput),
        ));
    };
    let name = format!("./{}", name.to_string_lossy());
    let args = argv![
        format!("--as={MEMORY_LIMIT}"),
        format!("--cpu={CPU_LIMIT}"),
        "--fsize=0",
        "--core=0",
        "--",
        spawn::find_tool("qemu-img")?.display(),
        "info",
        "--output=json",
        "-f",
        format.as_str(),
        "--",
        name,
    ];
    let around = Surroundings {
        identity,
        folder: Some(folder.to_owned()),
        ..Surroundings::default()
    };
    let output = spawn::run("prlimit", &args, None, around, Duration::from_mins(1)).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(refused(
            "IMAGE_UNREADABLE",
            "the image's file can't be read as what it was declared to be",
        )
        .inside(said));
    }
    let info: Value = serde_json::from_slice(&output.stdout).map_err(|e| {
        StepError::new(
            ErrorClass::Unavailable,
            "TOOL_FAILED",
            "qemu-img answered what can't be read",
        )
        .inside(e)
    })?;
    check_info(format, &info)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, backing: u64, crypt: u32, incompatible: u64) -> Vec<u8> {
        let mut head = b"QFI\xfb".to_vec();
        head.extend(version.to_be_bytes());
        head.extend(backing.to_be_bytes());
        head.resize(32, 0);
        head.extend(crypt.to_be_bytes());
        head.resize(72, 0);
        head.extend(incompatible.to_be_bytes());
        head.resize(512, 0);
        head
    }

    #[test]
    fn what_a_head_gives_away() {
        let code = |format, head: &[u8]| check_head(format, head).err().map(|e| e.code).unwrap_or_default();
        let qcow2 = ImageFormat::Qcow2;
        let table = [
            (header(3, 0, 0, 0), ""),
            (header(2, 0, 0, 0), ""),
            (header(3, 0, 0, 1), ""),
            (header(3, 104, 0, 0), "BACKING_FILE"),
            (header(3, 0, 2, 0), "IMAGE_ENCRYPTED"),
            (header(3, 0, 0, 4), "DATA_FILE"),
            (header(3, 0, 0, 2), "IMAGE_CORRUPT"),
            (header(9, 0, 0, 0), "SURPRISE_FORMAT"),
            (b"QFI\xfb".to_vec(), "SURPRISE_FORMAT"),
            (vec![0; 512], "SURPRISE_FORMAT"),
        ];
        for (head, expected) in table {
            assert_eq!(code(qcow2, &head), expected);
        }
        assert_eq!(code(ImageFormat::Raw, &header(3, 0, 0, 0)), "SURPRISE_FORMAT");
        assert_eq!(code(ImageFormat::Raw, b"KDMV...."), "SURPRISE_FORMAT");
        assert_eq!(code(ImageFormat::Raw, &[0x55; 512]), "");
        assert_eq!(code(ImageFormat::Raw, &[]), "IMAGE_EMPTY");
    }

    #[test]
    fn what_qemu_img_says_counts_too() {
        let ok = serde_json::json!({"format": "qcow2", "virtual-size": 4096, "format-specific": {"data": {"corrupt": false}}});
        assert_eq!(check_info(ImageFormat::Qcow2, &ok).unwrap(), 4096);
        for (key, value, code) in [
            (
                "backing-filename",
                serde_json::json!("/etc/passwd"),
                "BACKING_FILE",
            ),
            ("encrypted", serde_json::json!(true), "IMAGE_ENCRYPTED"),
            ("format", serde_json::json!("vmdk"), "SURPRISE_FORMAT"),
            ("virtual-size", serde_json::json!(0), "IMAGE_EMPTY"),
            (
                "format-specific",
                serde_json::json!({"data": {"data-file": "x"}}),
                "DATA_FILE",
            ),
        ] {
            let mut info = ok.clone();
            info[key] = value;
            assert_eq!(check_info(ImageFormat::Qcow2, &info).unwrap_err().code, code);
        }
    }
}
