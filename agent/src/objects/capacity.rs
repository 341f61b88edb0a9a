//! What a host has, and how busy it is.

use super::files::{Layout, storage};
use crate::driver::StepError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that may still be written to the file system of a folder.
pub(crate) fn disk_free(folder: &Path) -> Result<u64, StepError> {
    let space = nix::sys::statvfs::statvfs(folder)
        .map_err(|e| storage("looking at free space", folder, &std::io::Error::from(e)))?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// Bytes that our own images and disks take.
pub(crate) fn disk_used(layout: &Layout) -> u64 {
    let folder_size = |folder: &Path| -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        // Blocks are of 512 bytes (stat(2)); overlays are sparse.
        entries
            .filter_map(|e| e.metadata().ok())
            .map(|m| m.blocks() * 512)
            .sum()
    };
    folder_size(&layout.images()) + folder_size(&layout.disks())
}

/// MiB of memory: all of it, and what could be had now.
pub(crate) fn memory_mib() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_meminfo(&text)
}

fn parse_meminfo(text: &str) -> (u64, u64) {
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
            / 1024
    };
    (field("MemTotal"), field("MemAvailable"))
}

/// Processors that this process may use.
pub(crate) fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Of one minute.
pub(crate) fn load1() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|l| l.parse().ok())
        .unwrap_or(0.0)
}

/// GiB for guests: what is free and what is ours already, less the reserve.
pub(crate) fn disk_gib(layout: &Layout, reserve_gib: u64) -> Result<u64, StepError> {
    let all = disk_free(layout.root())? + disk_used(layout);
    Ok((all / super::disk::GIB).saturating_sub(reserve_gib))
}

/// GiB that is ours, rounded up.
pub(crate) fn disk_used_gib(layout: &Layout) -> u64 {
    disk_used(layout).div_ceil(super::disk::GIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_mib() {
        let text = "MemTotal:       24682612 kB\nMemFree: 1 kB\nMemAvailable:   24229888 kB\n";
        assert_eq!(parse_meminfo(text), (24104, 23662));
    }
}
