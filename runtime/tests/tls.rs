//! Who may connect to whom, over real TLS with tonic's health service behind a role check.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rhyzome_runtime::pki::{CA_DAYS, Ca, Existing, Request, read_certificate, show};
use rhyzome_runtime::tls::{KeyPair, ServerTls, Trust, connect_agent, incoming};
use rhyzome_runtime::{Identity, Peer, Role, TlsFiles, install_crypto};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

struct Served {
    address: SocketAddr,
    _ends: DropGuard,
}

/// Serves health to workers only, as the named hosts; the reply's trailer-free way to see the peer is the refusal's text.
async fn serve(pki: &Path, hosts: &[&str]) -> Served {
    let trust = Trust::load(&pki.join("ca.crt"), "rhyzome").unwrap();
    let pairs = hosts.iter().map(|host| {
        let files = TlsFiles::in_pki(pki, Role::Agent, host);
        KeyPair::load(&files.cert, &files.key).unwrap()
    });
    let tls = ServerTls::several(&trust, pairs).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let connections = incoming(listener, tls, token.clone());
    let (_, health) = tonic_health::server::health_reporter();
    let only_workers = |request: tonic::Request<()>| -> Result<tonic::Request<()>, Status> {
        let peer = Peer::require(&request, &[Role::Worker])?;
        if peer.name == "shown" {
            return Err(Status::failed_precondition(format!(
                "{} asked for {:?}",
                peer.name, peer.sni
            )));
        }
        Ok(request)
    };
    let service = tonic::service::interceptor::InterceptedService::new(health, only_workers);
    let ended = token.clone();
    tokio::spawn(async move {
        Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(connections, ended.cancelled_owned())
            .await
            .unwrap();
    });
    Served {
        address,
        _ends: token.drop_guard(),
    }
}

fn identity(pki: &Path, role: Role, name: &str) -> Identity {
    Identity::load(&TlsFiles::in_pki(pki, role, name)).unwrap()
}

async fn check(channel: &Channel) -> Result<(), Status> {
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut client = HealthClient::new(channel.clone());
    tokio::time::timeout(Duration::from_secs(20), client.check(request))
        .await
        .expect("an answer")
        .map(|_| ())
}

/// In TLS 1.3 a client learns that its certificate was refused after its handshake, so that tonic calls it "unknown".
async fn never_served(channel: &Channel) {
    let refused = check(channel).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::Unavailable | Code::Unknown),
        "{refused:?}"
    );
}

fn made(pki: &Path, certificates: &[(Role, &str)]) -> Ca {
    install_crypto();
    let ca = Ca::init(pki, CA_DAYS, Existing::Keep).unwrap();
    for (role, name) in certificates {
        ca.issue(&Request::new(*role, name), Existing::Keep).unwrap();
    }
    ca
}

#[tokio::test]
async fn a_worker_reaches_the_host_that_it_meant() {
    let dir = tempfile::tempdir().unwrap();
    made(
        dir.path(),
        &[
            (Role::Agent, "sim-1"),
            (Role::Agent, "sim-2"),
            (Role::Worker, "w-1"),
            (Role::Worker, "shown"),
        ],
    );
    let served = serve(dir.path(), &["sim-1", "sim-2"]).await;
    let address = served.address.to_string();
    for host in ["sim-1", "sim-2"] {
        check(&connect_agent(&address, host, &identity(dir.path(), Role::Worker, "w-1")).unwrap())
            .await
            .unwrap();
    }
    let shown = connect_agent(&address, "sim-2", &identity(dir.path(), Role::Worker, "shown")).unwrap();
    let said = check(&shown).await.unwrap_err();
    assert_eq!(said.message(), "shown asked for Some(\"sim-2\")");
}

#[tokio::test]
async fn the_right_ca_with_the_wrong_role_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    made(
        dir.path(),
        &[
            (Role::Agent, "host-1"),
            (Role::Agent, "host-2"),
            (Role::Api, "api-1"),
            (Role::Scheduler, "s-1"),
        ],
    );
    let served = serve(dir.path(), &["host-1"]).await;
    for (role, name) in [
        (Role::Api, "api-1"),
        (Role::Scheduler, "s-1"),
        (Role::Agent, "host-2"),
    ] {
        let channel = connect_agent(
            &served.address.to_string(),
            "host-1",
            &identity(dir.path(), role, name),
        )
        .unwrap();
        assert_eq!(
            check(&channel).await.unwrap_err().code(),
            Code::PermissionDenied,
            "{role}"
        );
    }
}

#[tokio::test]
async fn another_hosts_certificate_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), &[(Role::Agent, "host-1"), (Role::Worker, "w-1")]);
    let served = serve(dir.path(), &["host-1"]).await;
    let worker = identity(dir.path(), Role::Worker, "w-1");
    let channel = connect_agent(&served.address.to_string(), "host-2", &worker).unwrap();
    never_served(&channel).await;
}

/// The name alone doesn't make an agent: a NATS server's certificate names its host too.
#[tokio::test]
async fn a_server_of_another_role_is_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), &[(Role::Nats, "host-1"), (Role::Worker, "w-1")]);
    for extension in ["crt", "key"] {
        std::fs::rename(
            dir.path().join(format!("nats-host-1.{extension}")),
            dir.path().join(format!("agent-host-1.{extension}")),
        )
        .unwrap();
    }
    let served = serve(dir.path(), &["host-1"]).await;
    let worker = identity(dir.path(), Role::Worker, "w-1");
    let channel = connect_agent(&served.address.to_string(), "host-1", &worker).unwrap();
    never_served(&channel).await;
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made(ours.path(), &[(Role::Agent, "host-1"), (Role::Worker, "w-1")]);
    made(theirs.path(), &[(Role::Worker, "w-1")]);
    let served = serve(ours.path(), &["host-1"]).await;
    let address = served.address.to_string();
    // They trust nobody of ours.
    let stranger = identity(theirs.path(), Role::Worker, "w-1");
    never_served(&connect_agent(&address, "host-1", &stranger).unwrap()).await;
    // They trust us, and we still don't trust them.
    let files = TlsFiles {
        ca: ours.path().join("ca.crt"),
        ..TlsFiles::in_pki(theirs.path(), Role::Worker, "w-1")
    };
    let channel = connect_agent(&address, "host-1", &Identity::load(&files).unwrap()).unwrap();
    never_served(&channel).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let ca = made(dir.path(), &[(Role::Agent, "host-1"), (Role::Worker, "w-1")]);
    let long_ago = SystemTime::now() - Duration::from_hours(240);
    for (role, name) in [(Role::Worker, "late"), (Role::Agent, "host-2")] {
        let request = Request {
            from: Some(long_ago),
            days: 5,
            ..Request::new(role, name)
        };
        ca.issue(&request, Existing::Keep).unwrap();
    }
    let served = serve(dir.path(), &["host-1", "host-2"]).await;
    let address = served.address.to_string();
    for (host, worker) in [("host-1", "late"), ("host-2", "w-1")] {
        let channel = connect_agent(&address, host, &identity(dir.path(), Role::Worker, worker)).unwrap();
        never_served(&channel).await;
    }
    check(&connect_agent(&address, "host-1", &identity(dir.path(), Role::Worker, "w-1")).unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = made(dir.path(), &[(Role::Agent, "host-1")]);
    let request = Request {
        domain: "elsewhere".into(),
        ..Request::new(Role::Worker, "w-1")
    };
    ca.issue(&request, Existing::Keep).unwrap();
    let served = serve(dir.path(), &["host-1"]).await;
    let worker = identity(dir.path(), Role::Worker, "w-1");
    let channel = connect_agent(&served.address.to_string(), "host-1", &worker).unwrap();
    never_served(&channel).await;
}

#[tokio::test]
async fn who_has_no_certificate_is_refused() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), &[(Role::Agent, "host-1")]);
    let served = serve(dir.path(), &["host-1"]).await;
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(dir.path().join("ca.crt")).unwrap();
    let ca =
        <rustls::pki_types::CertificateDer<'static> as rustls::pki_types::pem::PemObject>::from_pem_slice(
            &pem,
        )
        .unwrap();
    roots.add(ca).unwrap();
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(served.address).await.unwrap();
    // In TLS 1.3 the client learns of its refusal with the first bytes that it reads.
    let refused = async {
        let mut stream = connector.connect("host-1".try_into().unwrap(), stream).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.read(&mut [0; 16]).await
    };
    let error = tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

/// Calls until `wanted` is what comes of it, on new connections, for at most half a minute.
async fn until(address: &str, identity: &Identity, wanted: fn(&Result<(), Status>) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let result = check(&connect_agent(address, "host-1", identity).unwrap()).await;
        if wanted(&result) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "still {result:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn changed_files_are_re_read() {
    let dir = tempfile::tempdir().unwrap();
    let ca = made(dir.path(), &[(Role::Agent, "host-1"), (Role::Worker, "w-1")]);
    let served = serve(dir.path(), &["host-1"]).await;
    let address = served.address.to_string();
    let worker = identity(dir.path(), Role::Worker, "w-1");
    until(&address, &worker, Result::is_ok).await;

    // The worker's certificate is renewed with one that has expired: new connections use it and are refused.
    let long_ago = SystemTime::now() - Duration::from_hours(240);
    let expired = Request {
        from: Some(long_ago),
        days: 5,
        ..Request::new(Role::Worker, "w-1")
    };
    ca.issue(&expired, Existing::Replace).unwrap();
    until(&address, &worker, Result::is_err).await;
    ca.issue(&Request::new(Role::Worker, "w-1"), Existing::Replace)
        .unwrap();
    until(&address, &worker, Result::is_ok).await;

    // Half a renewal leaves the old in force.
    std::fs::write(dir.path().join("worker-w-1.crt"), "not yet").unwrap();
    until(&address, &worker, Result::is_ok).await;
    ca.issue(&Request::new(Role::Worker, "w-1"), Existing::Replace)
        .unwrap();

    // A new CA for all of them: servers and clients follow.
    let anew = Ca::init(dir.path(), CA_DAYS, Existing::Replace).unwrap();
    until(&address, &worker, Result::is_err).await;
    for (role, name) in [(Role::Worker, "w-1"), (Role::Agent, "host-1")] {
        anew.issue(&Request::new(role, name), Existing::Replace).unwrap();
    }
    until(&address, &worker, Result::is_ok).await;
}

/// A channel outlives the server: the next call connects again.
#[tokio::test]
async fn a_channel_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), &[(Role::Agent, "host-1"), (Role::Worker, "w-1")]);
    let worker = identity(dir.path(), Role::Worker, "w-1");
    let first = serve(dir.path(), &["host-1"]).await;
    let address = first.address;
    let channel = connect_agent(&address.to_string(), "host-1", &worker).unwrap();
    check(&channel).await.unwrap();
    drop(first);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while check(&channel).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline);
    }
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let token = CancellationToken::new();
    let tls = ServerTls::single(&identity(dir.path(), Role::Agent, "host-1")).unwrap();
    let connections = incoming(listener, tls, token.clone());
    let (_, health) = tonic_health::server::health_reporter();
    let ended = token.clone();
    tokio::spawn(async move {
        Server::builder()
            .add_service(health)
            .serve_with_incoming_shutdown(connections, ended.cancelled_owned())
            .await
            .unwrap();
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while check(&channel).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline);
    }
    token.cancel();
}

#[test]
fn the_folder() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let ca = made(dir.path(), &[(Role::Worker, "worker-1"), (Role::Agent, "host-1")]);
    assert!(
        Ca::init(dir.path(), CA_DAYS, Existing::Keep)
            .unwrap_err()
            .to_string()
            .contains("--force")
    );
    let again = ca.issue(&Request::new(Role::Worker, "worker-1"), Existing::Keep);
    assert!(
        again
            .unwrap_err()
            .to_string()
            .contains("worker-worker-1.crt exists")
    );
    for wrong in ["", "Host-1", "a b", "../x", "-a", "a/b"] {
        assert!(
            ca.issue(&Request::new(Role::Agent, wrong), Existing::Keep)
                .is_err(),
            "{wrong}"
        );
    }
    let before = read_certificate(&dir.path().join("worker-worker-1.crt")).unwrap();
    ca.ensure(Role::Worker, "worker-1").unwrap();
    assert_eq!(read_certificate(&before.path).unwrap(), before);
    assert_eq!(before.subject, "OU=worker");
    assert_eq!(before.id.unwrap().to_string(), "spiffe://rhyzome/worker/worker-1");
    let key = std::fs::metadata(dir.path().join("worker-worker-1.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = show(dir.path())
        .unwrap()
        .into_iter()
        .map(|shown| shown.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["agent-host-1.crt", "ca.crt", "worker-worker-1.crt"]);
    assert!(
        Ca::open(&dir.path().join("elsewhere"))
            .unwrap_err()
            .to_string()
            .contains("pki init")
    );
}
