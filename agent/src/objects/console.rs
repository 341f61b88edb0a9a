//! What a guest's serial console said: QEMU writes it to a file, which is kept within a limit. A reader sees half lines.

use super::logs;
use super::qemu::CONSOLE_LOG;
use crate::driver::{ConsolePart, StepError};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes at which the file is cut; the one before it is as large at most, or a little more where a guest is faster than the look.
const LIMIT: u64 = 4 << 20;
/// Of a part, bytes.
const PART: u64 = 64 * 1024;

fn now(folder: &Path) -> PathBuf {
    folder.join(CONSOLE_LOG)
}

fn before(folder: &Path) -> PathBuf {
    folder.join("console.before.log")
}

/// Cuts the file, if it is long enough.
pub(crate) fn limit(folder: &Path) -> io::Result<()> {
    logs::limit(&now(folder), &before(folder), LIMIT)
}

/// The last bytes of a file, `most` of them.
fn last_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Pure: the last lines of some bytes; a half line at the end counts as one.
fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let breaks = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    let start = breaks.map(|(i, _)| i + 1).nth(lines - 1).unwrap_or(0);
    &bytes[start..]
}

/// The last lines.
pub(crate) fn tail(folder: &Path, lines: usize) -> Result<Vec<u8>, StepError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = last_bytes(&now(folder), LIMIT)?;
        if bytes.split(|b| *b == b'\n').count() <= lines {
            let mut all = last_bytes(&before(folder), LIMIT)?;
            all.append(&mut bytes);
            bytes = all;
        }
        Ok(last_lines(&bytes, lines).to_vec())
    };
    read().map_err(|e| super::files::storage("reading a console", folder, &e))
}

/// What came from an offset on; where the file ends, for `None`.
pub(crate) fn part(folder: &Path, from: Option<u64>) -> Result<ConsolePart, StepError> {
    let read = || -> io::Result<ConsolePart> {
        let mut file = match File::open(now(folder)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(ConsolePart {
                    data: Vec::new(),
                    next: 0,
                });
            }
            Err(e) => return Err(e),
        };
        let size = file.metadata()?.len();
        let Some(from) = from else {
            return Ok(ConsolePart {
                data: Vec::new(),
                next: size,
            });
        };
        let from = if from > size { 0 } else { from };
        file.seek(SeekFrom::Start(from))?;
        let mut data = Vec::new();
        file.take(PART).read_to_end(&mut data)?;
        let next = from + data.len() as u64;
        Ok(ConsolePart { data, next })
    };
    read().map_err(|e| super::files::storage("reading a console", folder, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_counted_from_the_end() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nhalf", 2), b"b\nhalf");
        assert_eq!(last_lines(b"a\nb\n", 9), b"a\nb\n");
        assert_eq!(last_lines(b"a\nb\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }

    #[test]
    fn a_long_log_is_cut_and_its_tail_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let line = b"0123456789abcde\n";
        fs::write(now(dir.path()), line.repeat(LIMIT as usize / 16 + 10)).unwrap();
        limit(dir.path()).unwrap();
        assert_eq!(fs::metadata(now(dir.path())).unwrap().len(), 0);
        assert_eq!(tail(dir.path(), 2).unwrap(), line.repeat(2));
        fs::write(now(dir.path()), b"new\n").unwrap();
        assert_eq!(tail(dir.path(), 2).unwrap(), b"0123456789abcde\nnew\n");
        assert_eq!(
            part(dir.path(), Some(1 << 30)).unwrap(),
            ConsolePart {
                data: b"new\n".to_vec(),
                next: 4
            }
        );
        assert_eq!(part(dir.path(), None).unwrap().next, 4);
    }
}
