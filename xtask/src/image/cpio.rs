//! Writes a cpio archive in the format that the kernel unpacks as its first file system.
//!
//! Source of the format: `newc` in the kernel's documentation, "initramfs buffer format". Everything belongs to root
//! and bears the time 0, so equal inputs make equal archives.

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder; its parents have to be there.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.entry(path, FOLDER | mode, &[]);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode, contents);
    }

    /// Adds a symbolic link to `target`.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name_size = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), its own device (2), name's size, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            contents.len() as u32,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_ended() {
        let mut archive = Archive::default();
        archive.folder("bin", 0o755);
        archive.file("bin/a", 0o755, b"hello");
        archive.link("bin/b", "a");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ED");
        let second = bytes
            .windows(6)
            .enumerate()
            .skip(1)
            .find(|(_, window)| window == b"070701")
            .unwrap()
            .0;
        assert_eq!(second % 4, 0);
        assert_eq!(&bytes[second + 54..second + 62], b"00000005");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("bin/a\0") && text.contains("hello\0") && text.contains("TRAILER!!!\0"));
    }
}
