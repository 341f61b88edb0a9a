//! Reads an action as what it is, with nothing kept in between.
//!
//! What serde derives for a tagged enum keeps all that it meets until it has seen the tag, and reads that again. Ours is written first:
//! what follows it is read at once. Where it comes later, what stood before it is kept after all.

use super::Action;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

const TAG: &str = "action";

/// The names of the actions, as they are written.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    EnsureNetwork,
    DropNetwork,
    EnsureImage,
    DropImage,
    EnsureDisk,
    RemoveDisk,
    EnsureInstance,
    RemoveInstance,
    SetPower,
    Reboot,
}

impl Name {
    fn read<'de, D: Deserializer<'de>>(self, from: D) -> Result<Action, D::Error> {
        match self {
            Self::EnsureNetwork => Deserialize::deserialize(from).map(Action::EnsureNetwork),
            Self::DropNetwork => Deserialize::deserialize(from).map(Action::DropNetwork),
            Self::EnsureImage => Deserialize::deserialize(from).map(Action::EnsureImage),
            Self::DropImage => Deserialize::deserialize(from).map(Action::DropImage),
            Self::EnsureDisk => Deserialize::deserialize(from).map(Action::EnsureDisk),
            Self::RemoveDisk => Deserialize::deserialize(from).map(Action::RemoveDisk),
            Self::EnsureInstance => Deserialize::deserialize(from).map(Action::EnsureInstance),
            Self::RemoveInstance => Deserialize::deserialize(from).map(Action::RemoveInstance),
            Self::SetPower => Deserialize::deserialize(from).map(Action::SetPower),
            Self::Reboot => Deserialize::deserialize(from).map(Action::Reboot),
        }
    }
}

struct Tagged;

impl<'de> Visitor<'de> for Tagged {
    type Value = Action;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "an object with the name of an action in `{TAG}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Action, A::Error> {
        let first: String = map.next_key()?.ok_or_else(|| Error::missing_field(TAG))?;
        if first == TAG {
            let name: Name = map.next_value()?;
            return name.read(MapAccessDeserializer::new(map));
        }
        let mut kept = Map::new();
        kept.insert(first, map.next_value()?);
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            kept.insert(key, value);
        }
        let name = kept.remove(TAG).ok_or_else(|| Error::missing_field(TAG))?;
        let name: Name = serde_json::from_value(name).map_err(Error::custom)?;
        name.read(Value::Object(kept)).map_err(Error::custom)
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Tagged)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DropShared, EnsureDisk, EnsureImage, EnsureNetwork, HostLease, NetworkClaim, Nic};
    use super::super::{EnsureInstance, Reboot, RemoveDisk, RemoveInstance, SetPower};
    use super::{Action, TAG, Value};
    use crate::ids::{ResourceId, TenantId};
    use crate::kinds::{ImageFormat, ImageSource, Power, RestartPolicy};

    fn all() -> Vec<Action> {
        let id = ResourceId::new;
        let (tenant, ip) = (TenantId::from("demo"), "10.0.0.7".parse().unwrap());
        let lease = HostLease {
            mac: "02:00:00:00:00:01".into(),
            ip,
            hostname: Some("a".into()),
        };
        let dropped = || DropShared {
            object: id(),
            holder: id(),
        };
        vec![
            Action::EnsureNetwork(EnsureNetwork {
                network: id(),
                tenant: tenant.clone(),
                generation: 1,
                cidr: "10.0.0.0/24".parse().unwrap(),
                gateway: ip,
                dns: vec![ip],
                leases: vec![lease.clone()],
                claim: Some(NetworkClaim {
                    holder: id(),
                    leases: vec![lease],
                }),
            }),
            Action::DropNetwork(dropped()),
            Action::EnsureImage(EnsureImage {
                image: id(),
                source: ImageSource::File("tiny.qcow2".into()),
                format: ImageFormat::Qcow2,
                sha256: None,
                holder: id(),
            }),
            Action::DropImage(dropped()),
            Action::EnsureDisk(EnsureDisk {
                disk: id(),
                image: id(),
                image_sha256: "0".repeat(64),
                image_format: ImageFormat::Raw,
                size_gib: 3,
            }),
            Action::RemoveDisk(RemoveDisk { disk: id() }),
            Action::EnsureInstance(Box::new(EnsureInstance {
                instance: id(),
                tenant,
                name: "a".into(),
                generation: 2,
                vcpus: 1,
                memory_mib: 128,
                interfaces: vec![Nic {
                    network: id(),
                    mac: "02:00:00:00:00:01".into(),
                    ip,
                    prefix_len: 24,
                    gateway: ip,
                }],
                user_data: Some("\u{1}\"".into()),
                ssh_keys: vec!["ssh-ed25519 A".into()],
                restart: RestartPolicy::Always,
                stop_timeout_s: 60,
            })),
            Action::RemoveInstance(RemoveInstance { instance: id() }),
            Action::SetPower(SetPower {
                instance: id(),
                power: Power::On,
            }),
            Action::Reboot(Reboot { instance: id() }),
        ]
    }

    #[test]
    fn every_action_reads_back_wherever_its_name_stands() {
        let actions = all();
        assert_eq!(actions.len(), Action::NAMES.len());
        for action in actions {
            let text = serde_json::to_string(&action).unwrap();
            let tag = format!("\"{TAG}\":\"{}\"", action.name());
            let rest = text
                .strip_prefix(&format!("{{{tag},"))
                .expect("its name is first");
            let last = format!("{{{},{tag}}}", rest.strip_suffix('}').unwrap());
            for text in [&text, &last] {
                assert_eq!(serde_json::from_str::<Action>(text).unwrap(), action, "{text}");
                let value: Value = serde_json::from_str(text).unwrap();
                assert_eq!(serde_json::from_value::<Action>(value).unwrap(), action, "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_action_is_refused() {
        for (text, why) in [
            ("{}", "missing field `action`"),
            (r#"{"instance": 1}"#, "missing field `action`"),
            (r#"{"action": "dance"}"#, "unknown variant `dance`"),
            (r#"{"instance": 1, "action": "dance"}"#, "unknown variant `dance`"),
            (r#"{"action": "reboot"}"#, "missing field `instance`"),
            (r#"{"action": "reboot", "guest": 1}"#, "unknown field `guest`"),
            (r#"{"guest": 1, "action": "reboot"}"#, "unknown field `guest`"),
            (
                r#"{"action": "reboot", "action": "reboot"}"#,
                "unknown field `action`",
            ),
            ("[]", "an object"),
        ] {
            let error = serde_json::from_str::<Action>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
