//! Folders and files of ours in places where anybody may put some (`/var/tmp`): made for their owner alone, or refused.
//!
//! Their names can be guessed. What somebody else put there first is neither taken over nor written through.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::{Uid, User};

/// Makes a folder that is its owner's alone, or finds it to be so: this process' user's, or that other's, whose it is then.
pub(crate) fn folder(path: &Path, owner: Option<&User>) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    // No link; and from here on this very folder, whatever comes to stand in its place.
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .with_context(|| {
            format!(
                "{} must be a folder of our own, and no link: remove what is there",
                path.display()
            )
        })?;
    let meta = folder
        .metadata()
        .with_context(|| format!("looking at {}", path.display()))?;
    let ours = meta.uid() == Uid::effective().as_raw()
        || owner.is_some_and(|owner| owner.uid.as_raw() == meta.uid());
    if !ours || meta.mode() & 0o077 != 0 {
        bail!(
            "{} belongs to the user {}, with the mode {:o}: it must be ours, and closed to others. Remove it if nobody needs it",
            path.display(),
            meta.uid(),
            meta.mode() & 0o7777
        );
    }
    give(&folder, path, owner)
}

/// Makes a file that its owner alone may read. Nothing may be in its place, a link neither.
pub(crate) fn file(path: &Path, content: &str, owner: Option<&User>) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    file.write_all(content.as_bytes())
        .with_context(|| format!("writing {}", path.display()))?;
    give(&file, path, owner)
}

fn give(opened: &File, path: &Path, owner: Option<&User>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    fchown(opened, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
        .with_context(|| format!("giving {} to {}", path.display(), owner.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_made_closed_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ours");
        for _ in 0..2 {
            folder(&path, None).unwrap();
            assert_eq!(mode(&path), 0o700);
        }
    }

    #[test]
    fn what_somebody_else_put_there_is_refused_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (open, real, link, plain) = (
            dir.path().join("open"),
            dir.path().join("real"),
            dir.path().join("link"),
            dir.path().join("plain"),
        );
        for path in [&open, &real] {
            fs::create_dir(path).unwrap();
        }
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o700)).unwrap();
        symlink(&real, &link).unwrap();
        fs::write(&plain, "").unwrap();
        for path in [&open, &link, &plain] {
            folder(path, None).unwrap_err();
        }
        assert_eq!((mode(&open), mode(&real)), (0o777, 0o700));
        if !Uid::effective().is_root() {
            return;
        }
        // Of another user, though closed.
        chown(&real, Some(12345), None).unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        folder(&real, Some(&nobody)).unwrap_err();
        assert_eq!(fs::metadata(&real).unwrap().uid(), 12345);
        // Ours from a start that was broken off, then that user's, and found so.
        chown(&real, Some(0), None).unwrap();
        for _ in 0..2 {
            folder(&real, Some(&nobody)).unwrap();
            assert_eq!(fs::metadata(&real).unwrap().uid(), nobody.uid.as_raw());
        }
    }

    #[test]
    fn a_file_is_never_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link, hanging) = (
            dir.path().join("victim"),
            dir.path().join("link"),
            dir.path().join("hanging"),
        );
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, &link).unwrap();
        symlink(dir.path().join("made"), &hanging).unwrap();
        for path in [&link, &hanging, &victim] {
            file(path, "secret", None).unwrap_err();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(!dir.path().join("made").exists());
        let path = dir.path().join("new");
        file(&path, "secret", None).unwrap();
        assert_eq!(
            (mode(&path), fs::read_to_string(&path).unwrap().as_str()),
            (0o600, "secret")
        );
    }
}
