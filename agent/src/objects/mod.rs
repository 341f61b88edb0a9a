//! The real driver: what a host holds, one file an object, and what they are made with.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `real` | the driver: hands each action to its object, under its lock |
//! | `network`, `netns`, `dnsmasq` | networks: what they shall be, their namespace by `ip` and `nft`, their DHCP |
//! | `image`, `fetch`, `address`, `qcow2` | images: claims and files by digest, getting them, which URLs may be, what may be in them |
//! | `disk` | root disks |
//! | `instance`, `seed` | definitions of guests, and what cloud-init finds |
//! | `guests`, `run_state`, `qemu`, `qmp`, `console` | guests' processes, what becomes of them, QEMU's arguments and monitor, what they said |
//! | `accel`, `cgroup`, `users`, `capacity` | what this machine can do |
//! | `spawn`, `process`, `files`, `locks` | programs, processes, files and locks |

mod accel;
mod address;
mod capacity;
mod cgroup;
mod console;
mod disk;
mod dnsmasq;
mod fetch;
mod files;
mod guests;
mod image;
mod instance;
mod locks;
mod netns;
mod network;
mod process;
mod qcow2;
mod qemu;
mod qmp;
mod real;
mod run_state;
mod seed;
mod spawn;
mod users;

pub use accel::Accelerator;
pub use network::Networking;
pub use real::{Choice, RealConfig, RealDriver};
