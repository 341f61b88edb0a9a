//! Whether KVM really runs a guest here: tried with one, not guessed.
//!
//! A `/dev/kvm` that opens and makes a machine may still run nothing. The probe is a disk whose boot sector writes two bytes to the
//! serial port; it runs as guests run, by the same user on the same machine type. What it showed is kept until the machine restarts.

use super::files;
use super::process::boot_id;
use super::qemu;
use super::spawn::{self, Identity, Streams, Surroundings, WhenDropped};
use crate::driver::StepError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Where KVM is.
pub(crate) const DEVICE: &str = "/dev/kvm";
/// How long the probe's guest may take: its firmware is through in a fraction of a second where KVM works.
const WITHIN: Duration = Duration::from_secs(4);
/// What it writes.
const SIGN: &[u8] = b"RZ";
/// 16-bit code: mov dx,0x3f8; mov al,'R'; out dx,al; mov al,'Z'; out dx,al; cli; hlt; jmp to the hlt.
const CODE: [u8; 13] = [
    0xba, 0xf8, 0x03, 0xb0, b'R', 0xee, 0xb0, b'Z', 0xee, 0xfa, 0xf4, 0xeb, 0xfd,
];

/// What runs guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulation: slow, and works everywhere.
    Tcg,
}

impl Accelerator {
    /// As in a host's facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Shown {
    boot: String,
    uid: Option<u32>,
    accelerator: Accelerator,
}

/// What the probe shows, or showed since the machine's start.
pub(crate) async fn probe(root: &Path, identity: Option<Identity>) -> Result<Accelerator, StepError> {
    if !Path::new(DEVICE).exists() {
        return Ok(Accelerator::Tcg);
    }
    let boot =
        boot_id().map_err(|e| files::storage("telling the machine's start", Path::new("/proc"), &e))?;
    let record = root.join("accelerator.json");
    let uid = identity.map(|i| i.uid);
    if let Ok(Some(shown)) = files::read_record::<Shown>(&record)
        && shown.boot == boot
        && shown.uid == uid
    {
        return Ok(shown.accelerator);
    }
    let accelerator = match try_guest(root, Accelerator::Kvm, identity).await {
        Ok(true) => Accelerator::Kvm,
        Ok(false) => Accelerator::Tcg,
        Err(error) => {
            tracing::info!(%error, inside = error.inside, "the probe of KVM could not be made");
            Accelerator::Tcg
        }
    };
    tracing::info!(accelerator = accelerator.as_str(), "what runs guests here");
    files::write_record(
        &record,
        &Shown {
            boot: boot.to_owned(),
            uid,
            accelerator,
        },
    )?;
    Ok(accelerator)
}

/// Whether a guest on this accelerator does something.
pub(crate) async fn try_guest(
    root: &Path,
    accelerator: Accelerator,
    identity: Option<Identity>,
) -> Result<bool, StepError> {
    let folder = tempfile::Builder::new()
        .prefix("probe-")
        .tempdir_in(root)
        .map_err(|e| files::storage("making the probe's folder", root, &e))?;
    files::make_folder(folder.path())?;
    files::write_atomic(&folder.path().join("boot.img"), &boot_disk(), 0o644)?;
    let mut args = qemu::confined();
    args.extend(qemu::machine(accelerator));
    args.extend(
        [
            "-m", "16M", "-no-reboot", "-serial", "stdio",
            "-blockdev", "driver=raw,node-name=boot,read-only=on,file.driver=file,file.filename=boot.img,file.read-only=on",
            "-device", "virtio-blk-pci,drive=boot,bootindex=1",
        ]
        .map(str::to_owned),
    );
    let around = Surroundings {
        identity,
        folder: Some(folder.path().to_owned()),
        devices: vec![PathBuf::from(DEVICE)],
        ..Surroundings::default()
    };
    let streams = Streams {
        stdin: Stdio::null(),
        stdout: Stdio::piped(),
        stderr: Stdio::null(),
    };
    let mut child = spawn::start(qemu::PROGRAM, &args, around, streams, WhenDropped::Killed).await?;
    let mut said = Vec::new();
    let listen = async {
        let Some(mut out) = child.stdout.take() else {
            return false;
        };
        let mut piece = [0; 256];
        // The firmware may say something, too.
        while let Ok(n) = out.read(&mut piece).await {
            if n == 0 || said.len() > 1 << 16 {
                return false;
            }
            said.extend_from_slice(&piece[..n]);
            if said.windows(SIGN.len()).any(|w| w == SIGN) {
                return true;
            }
        }
        false
    };
    let runs = tokio::time::timeout(WITHIN, listen).await.unwrap_or(false);
    child
        .kill()
        .await
        .map_err(|e| files::storage("ending the probe", root, &e))?;
    Ok(runs)
}

/// A disk of one track with the code in its first sector.
fn boot_disk() -> Vec<u8> {
    let mut disk = vec![0u8; 64 * 512];
    disk[..CODE.len()].copy_from_slice(&CODE);
    disk[510] = 0x55;
    disk[511] = 0xaa;
    disk
}
