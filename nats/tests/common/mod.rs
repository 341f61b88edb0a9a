//! A real nats-server over mutual TLS with certificates made for one test.

#![allow(dead_code, unreachable_pub, unused_imports, missing_docs)]

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rhyzome_nats::{Connection, NatsConfig, Role};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use server::{Files, NatsServer};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

mod server;
pub use server::{PATIENCE, eventually};

/// A CA for one test.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    cert: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let (pem, der) = (cert.pem(), cert.der().clone());
        Self {
            issuer: Issuer::new(params, key),
            pem,
            der,
        }
    }

    /// Subject exactly `OU=<role>`, the name in the URI SAN, and these DNS names.
    pub fn issue(&self, role: &str, name: &str, dns: &[&str]) -> Identity {
        let mut params =
            CertificateParams::new(dns.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role);
        let uri = format!("spiffe://rhyzome/{role}/{name}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            cert: cert.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// A client's TLS that trusts this CA and shows the identity, if any.
    pub fn client(&self, identity: Option<&Identity>) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(id) => builder
                .with_client_auth_cert(
                    vec![id.cert.clone()],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(id.key.clone())),
                )
                .unwrap(),
        }
    }
}

/// A running server and its CA.
pub struct Server {
    pub ca: Ca,
    _pki: TempDir,
    nats: NatsServer,
}

impl Deref for Server {
    type Target = NatsServer;

    fn deref(&self) -> &NatsServer {
        &self.nats
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut NatsServer {
        &mut self.nats
    }
}

impl Server {
    pub fn start() -> Self {
        let pki = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let identity = ca.issue("nats", "nats", &["localhost", "127.0.0.1"]);
        let write = |name: &str, pem: &str| {
            let path = pki.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        let files = Files {
            ca: write("ca.crt", &ca.pem),
            certificate: write("nats.crt", &identity.cert_pem),
            key: write("nats.key", &identity.key_pem),
        };
        Self {
            ca,
            _pki: pki,
            nats: NatsServer::start(files),
        }
    }

    pub async fn connect(&self, role: Role) -> Connection {
        self.connect_with(role, &self.config()).await
    }

    pub async fn connect_with(&self, role: Role, config: &NatsConfig) -> Connection {
        let name = format!("{}-1", role.as_str());
        let tls = self.ca.client(Some(&self.ca.issue(role.as_str(), &name, &[])));
        let connection = rhyzome_nats::connect::connect(config, role, &name, Some(tls))
            .await
            .unwrap();
        tokio::time::timeout(PATIENCE, connection.connected())
            .await
            .expect("connected")
            .unwrap();
        connection
    }

    /// The library's own client, for what ours doesn't do.
    pub async fn raw(&self, role: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
        let tls = self.ca.client(Some(&self.ca.issue(role, "raw", &["host-1"])));
        async_nats::ConnectOptions::new()
            .require_tls(true)
            .tls_client_config(tls)
            .custom_inbox_prefix(format!("_INBOX_{role}"))
            .request_timeout(Some(Duration::from_secs(1)))
            .connect(self.url())
            .await
    }
}
