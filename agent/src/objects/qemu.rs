//! QEMU's arguments: a pure function of what a guest shall be.
//!
//! Files are named relative to the folder in which QEMU is started (`run` in the instance's own; sockets lie in it, and it is all
//! that QEMU's user may change): the user need not be able to pass the folders above, and a socket's path is never too long. The disk's backing file is named here, not taken from the disk. Nothing secret is in them.

use super::accel::Accelerator;
use rhyzome_model::ids::ResourceId;
use rhyzome_model::kinds::ImageFormat;
use rhyzome_model::step::{EnsureInstance, Nic};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The monitor's socket.
pub(crate) const MONITOR: &str = "qmp.sock";
/// The serial console's socket.
pub(crate) const CONSOLE: &str = "console.sock";
/// What the serial console said, in the instance's folder.
pub(crate) const CONSOLE_LOG: &str = "console.log";
/// The seed, in the instance's folder.
pub(crate) const SEED: &str = "seed.img";
/// The node of the root disk, for the monitor.
pub(crate) const ROOT_NODE: &str = "root";
/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// What QEMU itself says, in an instance's folder.
pub(crate) fn log(folder: &Path) -> PathBuf {
    folder.join("qemu.log")
}

/// How a card is connected.
pub(crate) enum Card<'a> {
    /// To a tap that is there.
    Tap { nic: &'a Nic, tap: String },
    /// To QEMU's own network.
    User { nic: &'a Nic, name: &'a str },
}

/// A guest about to be started.
pub(crate) struct Guest<'a> {
    pub(crate) definition: &'a EnsureInstance,
    pub(crate) image_sha256: &'a str,
    pub(crate) image_format: ImageFormat,
    pub(crate) cards: Vec<Card<'a>>,
    pub(crate) accelerator: Accelerator,
}

/// Processor and machine of an accelerator.
pub(crate) fn machine(accelerator: Accelerator) -> Vec<String> {
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // Five-level page tables only make emulation slower.
        Accelerator::Tcg => ("tcg,thread=multi", "max,la57=off"),
    };
    [
        "-accel",
        accel,
        "-machine",
        "q35,usb=off,vmport=off,hpet=off",
        "-cpu",
        cpu,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// No configuration but ours, no devices but ours, and no way from QEMU's process to others.
pub(crate) fn confined() -> Vec<String> {
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The argument by which a guest's process is known for its instance's.
pub(crate) fn guest_name(id: ResourceId) -> String {
    format!("guest={id}")
}

/// All arguments. The guest waits (`-S`) until it is told to go on, and QEMU stays when the guest ends, so that its end can be told.
pub(crate) fn args(guest: &Guest<'_>) -> Vec<String> {
    let Guest { definition, .. } = guest;
    let id = definition.instance;
    let mut args = confined();
    args.extend(machine(guest.accelerator));
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    add("-name", guest_name(id));
    add("-uuid", id.to_string());
    add("-smp", definition.vcpus.to_string());
    add("-m", format!("{}M", definition.memory_mib));
    add("-action", "shutdown=pause,panic=shutdown".to_owned());
    add("-qmp", format!("unix:{MONITOR},server=on,wait=off"));
    add(
        "-chardev",
        format!("socket,id=console,path={CONSOLE},server=on,wait=off,logfile=../{CONSOLE_LOG},logappend=on"),
    );
    add("-serial", "chardev:console".to_owned());
    add("-rtc", "base=utc".to_owned());
    add("-device", "virtio-rng-pci".to_owned());
    for value in block_nodes(id, guest.image_sha256, guest.image_format) {
        add("-blockdev", value);
    }
    add("-device", format!("virtio-blk-pci,drive={ROOT_NODE},bootindex=1"));
    add("-device", "virtio-blk-pci,drive=seed".to_owned());
    for (i, card) in guest.cards.iter().enumerate() {
        let (netdev, nic) = match card {
            Card::Tap { nic, tap } => (
                format!("tap,id=net{i},ifname={tap},script=no,downscript=no,vhost=off"),
                *nic,
            ),
            Card::User { nic, name } => (user_network(i, nic, name), *nic),
        };
        add("-netdev", netdev);
        // No option ROM: guests boot from their disk.
        add(
            "-device",
            format!("virtio-net-pci,netdev=net{i},mac={},romfile=", nic.mac),
        );
    }
    args.push("-S".to_owned());
    args
}

fn block_nodes(id: ResourceId, sha256: &str, format: ImageFormat) -> [String; 5] {
    let image = format!("../../../images/{sha256}");
    [
        format!("driver=file,node-name=image-file,filename={image},read-only=on,auto-read-only=off"),
        format!(
            "driver={},node-name=image,file=image-file,read-only=on",
            format.as_str()
        ),
        format!("driver=file,node-name=root-file,filename=../../../disks/{id}.qcow2,discard=unmap"),
        format!("driver=qcow2,node-name={ROOT_NODE},file=root-file,backing=image,discard=unmap"),
        format!(
            "driver=raw,node-name=seed,read-only=on,file.driver=file,file.filename=../{SEED},file.read-only=on"
        ),
    ]
}

/// QEMU's own network with the network's range, so that its DHCP gives exactly the guest's address. Shut off from the host, on
/// whose loopback it would end otherwise.
fn user_network(i: usize, nic: &Nic, name: &str) -> String {
    let range = ipnet::Ipv4Net::new(nic.ip, nic.prefix_len).map_or(nic.ip, |n| n.network());
    let taken = [nic.ip, nic.gateway];
    let dns = (1..=4)
        .map(|n| Ipv4Addr::from(u32::from(range) + n))
        .find(|a| !taken.contains(a))
        .unwrap_or(nic.gateway);
    format!(
        "user,id=net{i},restrict=on,ipv6=off,net={range}/{},host={},dhcpstart={},dns={dns},hostname={name}",
        nic.prefix_len, nic.gateway, nic.ip
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::ids::TenantId;
    use rhyzome_model::kinds::RestartPolicy;

    #[test]
    fn arguments_confine_and_hold_nothing_secret() {
        let nic = Nic {
            network: ResourceId::new(),
            mac: "02:00:00:00:00:01".into(),
            ip: "10.0.0.2".parse().unwrap(),
            prefix_len: 24,
            gateway: "10.0.0.1".parse().unwrap(),
        };
        let definition = EnsureInstance {
            instance: ResourceId::new(),
            tenant: TenantId::from("demo"),
            name: "web-1".into(),
            generation: 1,
            vcpus: 2,
            memory_mib: 128,
            interfaces: vec![nic.clone()],
            user_data: Some("password: hunter2".into()),
            ssh_keys: vec!["ssh-ed25519 AAAAC3 me".into()],
            restart: RestartPolicy::Never,
            stop_timeout_s: 5,
        };
        let with = |cards| {
            let guest = Guest {
                definition: &definition,
                image_sha256: "ab",
                image_format: ImageFormat::Raw,
                cards,
                accelerator: Accelerator::Tcg,
            };
            args(&guest).join(" ")
        };
        let tap = with(vec![Card::Tap {
            nic: &nic,
            tap: "t0".into(),
        }]);
        assert!(tap.contains("spawn=deny") && tap.contains("-nodefaults") && tap.contains("ifname=t0"));
        assert!(!tap.contains("hunter2") && !tap.contains("AAAAC3"));
        assert!(tap.contains("driver=raw,node-name=image,"));
        let user = with(vec![Card::User {
            nic: &nic,
            name: "web-1",
        }]);
        assert!(
            user.contains("net=10.0.0.0/24,host=10.0.0.1,dhcpstart=10.0.0.2,dns=10.0.0.3"),
            "{user}"
        );
    }
}
