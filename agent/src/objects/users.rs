//! Which user a guest's process runs as: one of its own for each guest, so that a guest that breaks out of QEMU finds neither the
//! machine's files nor another guest's. Numbers without names, from a range that nobody else uses; `nobody` where a container has no
//! such numbers, and the agent's own user where it isn't root.

use super::names::short_hash;
use super::spawn::Identity;
use rhyzome_model::ids::ResourceId;
use std::path::Path;

/// First number of the range: above what systemd, containers and directories give out (systemd's UIDS-GIDS.md), below 2³¹.
const FIRST: u32 = 0x7000_0000;
/// Conventional on Linux.
const NOBODY: u32 = 65534;

/// How users are chosen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// The agent isn't root: its own.
    TheAgents,
    /// One for each guest.
    OnePerGuest,
    /// One for all.
    Nobody,
}

impl Users {
    /// Tries on a file in `root`.
    pub(crate) fn probe(root: &Path) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self::TheAgents;
        }
        let tried = tempfile::NamedTempFile::new_in(root)
            .and_then(|file| std::os::unix::fs::chown(file.path(), Some(FIRST), Some(FIRST)));
        match tried {
            Ok(()) => Self::OnePerGuest,
            Err(error) => {
                tracing::info!(%error, "no numbers for users of guests: all run as nobody");
                Self::Nobody
            }
        }
    }

    /// The user of a guest.
    pub(crate) fn of(self, owner: &str, instance: ResourceId) -> Option<Identity> {
        match self {
            Self::TheAgents => None,
            Self::OnePerGuest => {
                let hash = u32::from_str_radix(&short_hash(owner, instance)[..6], 16).unwrap_or_default();
                Some(Identity {
                    uid: FIRST + 1 + hash,
                    gid: FIRST + 1 + hash,
                })
            }
            Self::Nobody => Some(Identity {
                uid: NOBODY,
                gid: NOBODY,
            }),
        }
    }

    /// The user that looks at what isn't trusted yet, and owns nothing.
    pub(crate) fn of_nobody(self) -> Option<Identity> {
        match self {
            Self::TheAgents => None,
            Self::OnePerGuest => Some(Identity {
                uid: FIRST,
                gid: FIRST,
            }),
            Self::Nobody => Some(Identity {
                uid: NOBODY,
                gid: NOBODY,
            }),
        }
    }
}
