//! Files that programs of a host write what they say into, kept within a limit: a guest can make any of them say much.
//!
//! A program appends, so its file can be cut to nothing under it; the end of what it held stands in a second file. A few bytes said in the
//! moment of a cut may be lost.

use super::files::storage;
use crate::driver::StepError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

/// Bytes at which the errors of a program are cut.
pub(crate) const ERRORS: u64 = 1 << 20;

/// An empty file for what a program will say.
pub(crate) fn begin(path: &Path) -> Result<File, StepError> {
    let open = || -> io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(0)?;
        Ok(file)
    };
    open().map_err(|e| storage("making a log", path, &e))
}

/// Cuts a file that has come to `most` bytes, and keeps the last ones of them in `before`. One that isn't there is no error.
pub(crate) fn limit(path: &Path, before: &Path, most: u64) -> io::Result<()> {
    let size = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if size < most {
        return Ok(());
    }
    let mut log = File::open(path)?;
    log.seek(SeekFrom::Start(size - most))?;
    let mut kept = File::create(before)?;
    io::copy(&mut io::Read::take(log, most), &mut kept)?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// The same for a program's errors.
pub(crate) fn limit_errors(path: &Path) -> Result<(), StepError> {
    limit(path, &path.with_extension("before.log"), ERRORS).map_err(|e| storage("limiting a log", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_log_is_cut_under_its_program_and_goes_on_without_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dnsmasq.log");
        limit_errors(&path).unwrap();
        fs::write(&path, "of an earlier one").unwrap();
        let mut program = begin(&path).unwrap();
        let line = b"DHCPDECLINE(br0)\n";
        let most = usize::try_from(ERRORS).unwrap();
        program.write_all(&line.repeat(most / line.len())).unwrap();
        limit_errors(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 0, "it is short enough");
        program.write_all(line).unwrap();
        limit_errors(&path).unwrap();
        program.write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        let before = fs::read(dir.path().join("dnsmasq.before.log")).unwrap();
        assert_eq!(before.len(), most);
        assert!(before.ends_with(line));
    }
}
