//! The real driver: what a host holds, one file an object, and what they are made with.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `real`, `settings` | the driver: hands each action to its object, under its lock; what it needs to know |
//! | `network`, `netns`, `names`, `filter`, `dnsmasq` | networks: what they shall be, their namespace by `ip` and `nft`, names, rules, DHCP |
//! | `image`, `fetch`, `digest`, `address`, `qcow2` | images: claims and files by digest, getting them, what a file is, which URLs may be, what may be in them |
//! | `disk` | root disks |
//! | `instance`, `seed` | definitions of guests, and what cloud-init finds |
//! | `guests`, `watching`, `pausing`, `adopting`, `strays`, `taps`, `run_state`, `qemu`, `qmp`, `console` | guests' processes, what happens to them by itself, their taps, their record, QEMU's arguments and monitor, what they said |
//! | `accel`, `cgroup`, `capacity` | what this machine can do |
//! | `users` | which user each guest's process is |
//! | `aside` | work that may block, off the runtime's threads |
//! | `spawn`, `process`, `files`, `logs`, `locks` | programs, processes, files, what programs say and locks |

mod accel;
mod address;
mod adopting;
mod aside;
mod capacity;
mod cgroup;
mod console;
mod digest;
mod disk;
mod dnsmasq;
mod fetch;
mod files;
mod filter;
mod guests;
mod image;
mod instance;
mod locks;
mod logs;
mod names;
mod netns;
mod network;
mod pausing;
mod process;
mod qcow2;
mod qemu;
mod qmp;
mod real;
mod run_state;
mod seed;
mod settings;
mod spawn;
mod strays;
mod taps;
mod users;
mod watching;

pub use accel::Accelerator;
pub use network::Networking;
pub use real::RealDriver;
pub use settings::{Choice, RealConfig};
