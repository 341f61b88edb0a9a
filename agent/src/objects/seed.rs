//! A guest's NoCloud seed: a small vfat image labelled `CIDATA`.
//!
//! Source of the format: cloud-init's NoCloud documentation. Keys travel in `meta-data` (`public-keys`), so that they apply whatever
//! the user data is; addresses come by DHCP, on each card by its MAC, and the way out by the first card.

use rhyzome_model::step::EnsureInstance;
use std::fmt::Write as _;
use std::io::{self, Cursor, Write as _};

/// Of the image: user data of 64 KiB and keys have room several times over.
const SIZE: usize = 1 << 20;

/// A text as YAML takes it on one line: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.trim()).to_string()
}

fn meta_data(instance: &EnsureInstance) -> String {
    let mut text = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        instance.instance, instance.name
    );
    if !instance.ssh_keys.is_empty() {
        text.push_str("public-keys:\n");
        for key in &instance.ssh_keys {
            writeln!(text, "  - {}", quoted(key)).unwrap_or_default();
        }
    }
    text
}

fn network_config(instance: &EnsureInstance) -> String {
    let mut text = "version: 2\nethernets:\n".to_owned();
    for (i, nic) in instance.interfaces.iter().enumerate() {
        write!(
            text,
            "  nic{i}:\n    match:\n      macaddress: {}\n    dhcp4: true\n",
            quoted(&nic.mac)
        )
        .unwrap_or_default();
        if i > 0 {
            text.push_str("    dhcp4-overrides:\n      use-routes: false\n");
        }
    }
    text
}

/// The image's bytes.
pub(crate) fn build(instance: &EnsureInstance) -> io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0u8; SIZE]);
    fatfs::format_volume(
        &mut disk,
        fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     "),
    )?;
    {
        let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
        let files = [
            ("meta-data", meta_data(instance)),
            ("user-data", instance.user_data.clone().unwrap_or_default()),
            ("network-config", network_config(instance)),
        ];
        for (name, text) in files {
            let mut file = volume.root_dir().create_file(name)?;
            file.truncate()?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        volume.unmount()?;
    }
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhyzome_model::ids::{ResourceId, TenantId};
    use rhyzome_model::kinds::RestartPolicy;
    use rhyzome_model::step::Nic;
    use std::io::Read;

    fn instance() -> EnsureInstance {
        let nic = |mac: &str| Nic {
            network: ResourceId::new(),
            mac: mac.to_owned(),
            ip: "10.0.0.5".parse().unwrap(),
            prefix_len: 24,
            gateway: "10.0.0.1".parse().unwrap(),
        };
        EnsureInstance {
            instance: ResourceId::new(),
            tenant: TenantId::from("demo"),
            name: "web-1".to_owned(),
            generation: 1,
            vcpus: 1,
            memory_mib: 128,
            interfaces: vec![nic("02:00:00:00:00:01"), nic("02:00:00:00:00:02")],
            user_data: Some("#!/bin/sh\necho hi\n".repeat(3000)),
            ssh_keys: vec!["ssh-ed25519 AAAA me@home: \"x\"\n".to_owned()],
            restart: RestartPolicy::Always,
            stop_timeout_s: 60,
        }
    }

    #[test]
    fn a_seed_reads_back() {
        let instance = instance();
        let volume =
            fatfs::FileSystem::new(Cursor::new(build(&instance).unwrap()), fatfs::FsOptions::new()).unwrap();
        assert_eq!(
            volume.read_volume_label_from_root_dir().unwrap().as_deref(),
            Some("CIDATA")
        );
        let read = |name: &str| {
            let mut text = String::new();
            volume
                .root_dir()
                .open_file(name)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        };
        assert_eq!(read("user-data"), instance.user_data.clone().unwrap());
        let meta = read("meta-data");
        assert!(meta.contains("local-hostname: web-1\n"), "{meta}");
        assert!(
            meta.contains(r#"  - "ssh-ed25519 AAAA me@home: \"x\"""#),
            "{meta}"
        );
        assert_eq!(read("network-config").matches("use-routes: false").count(), 1);
    }
}
