//! The configuration of a `nats-server`: JetStream, mutual TLS, and a user with least rights for each role.
//!
//! Certificates are mapped to users by their whole subject (`verify_and_map`): `OU=worker` is any worker. Who has no certificate of
//! our CA gets no TLS; who has one of another role, such as an agent, has no user. The rights are those of job-protocol.md.

use crate::connect::{Role, subscriptions};
use crate::streams::{ALL, DEAD, EVENTS, ORDERS, SCHEDULERS, WORKERS};
use crate::subjects;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What a server's configuration is made of.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Shown by the server.
    pub name: String,
    /// Address to listen on.
    pub host: String,
    /// Port; none lets the server take a free one, which it writes into `ports_dir`.
    pub port: Option<u16>,
    /// Where the server writes `nats-server_<pid>.ports`, if anywhere.
    pub ports_dir: Option<PathBuf>,
    /// Where JetStream keeps its streams.
    pub store_dir: PathBuf,
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The CA that signs our identities, PEM.
    pub ca: PathBuf,
}

/// What a role may publish and subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Subjects to publish to.
    pub publish: Vec<String>,
    /// Subjects to subscribe to.
    pub subscribe: Vec<String>,
}

/// The user of a role: its certificates' whole subject.
pub fn user(role: Role) -> String {
    format!("OU={}", role.as_str())
}

/// What a role may do, and no more.
pub fn rights(role: Role) -> Rights {
    let publish = match role {
        Role::Worker => {
            let mut may = consume(ORDERS, WORKERS);
            may.extend([subjects::EVENTS.to_owned(), subjects::DEAD.to_owned()]);
            may
        }
        Role::Admin => vec![
            format!("$JS.API.STREAM.MSG.GET.{DEAD}"),
            format!("$JS.API.STREAM.MSG.DELETE.{DEAD}"),
        ],
        Role::Api => vec![subjects::JOBS.to_owned(), subjects::CHANGES.to_owned()],
        Role::Scheduler => {
            let mut may = consume(EVENTS, SCHEDULERS);
            for stream in ALL {
                for verb in ["CREATE", "UPDATE", "INFO", "DELETE", "MSG.GET", "MSG.DELETE"] {
                    may.push(format!("$JS.API.STREAM.{verb}.{stream}"));
                }
                for verb in ["CREATE", "DURABLE.CREATE", "INFO", "DELETE"] {
                    may.push(format!("$JS.API.CONSUMER.{verb}.{stream}.>"));
                }
                may.push(format!("$JS.API.CONSUMER.NAMES.{stream}"));
            }
            may.extend(
                [
                    subjects::ORDERS,
                    subjects::CHANGES,
                    subjects::CONTROL,
                    subjects::DEAD,
                ]
                .map(str::to_owned),
            );
            may
        }
    };
    Rights {
        publish,
        subscribe: subscriptions(role),
    }
}

/// Info and next on a consumer, and acks of its deliveries in both forms (the newer carries domain and account).
fn consume(stream: &str, consumer: &str) -> Vec<String> {
    vec![
        format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        format!("$JS.ACK.{stream}.{consumer}.>"),
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
    ]
}

/// The whole configuration, in nats-server's own format.
pub fn config_text(settings: &ServerSettings) -> String {
    let mut text = String::new();
    let port = settings.port.map_or_else(|| "-1".to_owned(), |p| p.to_string());
    line(&mut text, &format!("server_name: {}", quoted(&settings.name)));
    line(
        &mut text,
        &format!("listen: {}", quoted(&format!("{}:{port}", settings.host))),
    );
    if let Some(dir) = &settings.ports_dir {
        line(
            &mut text,
            &format!("ports_file_dir: {}", quoted(&dir.to_string_lossy())),
        );
    }
    line(&mut text, "max_payload: 4MB");
    line(&mut text, "max_pending: 64MB");
    line(
        &mut text,
        &format!(
            "jetstream {{\n  store_dir: {}\n}}",
            quoted(&settings.store_dir.to_string_lossy())
        ),
    );
    line(
        &mut text,
        &format!(
            "tls {{\n  cert_file: {}\n  key_file: {}\n  ca_file: {}\n  verify_and_map: true\n  timeout: 5\n}}",
            quoted(&settings.certificate.to_string_lossy()),
            quoted(&settings.key.to_string_lossy()),
            quoted(&settings.ca.to_string_lossy()),
        ),
    );
    line(&mut text, "authorization {\n  users: [");
    for role in Role::ALL {
        let rights = rights(role);
        let list = |subjects: &[String]| subjects.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ");
        line(
            &mut text,
            &format!(
                "    {{ user: {}, permissions: {{\n      publish: {{ allow: [{}] }}\n      subscribe: {{ allow: [{}] }}\n    }} }}",
                quoted(&user(role)),
                list(&rights.publish),
                list(&rights.subscribe),
            ),
        );
    }
    line(&mut text, "  ]\n}");
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{line}");
}

fn quoted(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::{Role, rights};

    #[test]
    fn nobody_may_do_everything() {
        for role in Role::ALL {
            let rights = rights(role);
            for subject in rights.publish.iter().chain(&rights.subscribe) {
                assert!(
                    !matches!(
                        subject.as_str(),
                        ">" | "$JS.>" | "$JS.API.>" | "_INBOX.>" | "rhyzome.>"
                    ),
                    "{subject}"
                );
            }
        }
    }

    #[test]
    fn an_admin_reads_and_drops_dead_letters_and_nothing_else() {
        let admin = rights(Role::Admin);
        assert_eq!(
            admin.publish,
            ["$JS.API.STREAM.MSG.GET.DEAD", "$JS.API.STREAM.MSG.DELETE.DEAD"]
        );
        assert_eq!(admin.subscribe, ["_INBOX_admin.>"]);
    }

    #[test]
    fn a_worker_neither_orders_nor_manages() {
        let worker = rights(Role::Worker);
        for part in [
            "rhyzome.orders",
            "STREAM",
            "CREATE",
            "DELETE",
            "rhyzome.changes",
            "rhyzome.control",
        ] {
            assert!(worker.publish.iter().all(|s| !s.contains(part)), "{part}");
        }
    }
}
