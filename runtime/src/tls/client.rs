//! The client's side: channels to agents, and configuration for other clients (NATS).
//!
//! A channel connects when it is first used and again when it broke; every connection verifies the chain, the validity, the host's
//! name and that the certificate's URI SAN says `/agent/<host>`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::TlsError;
use super::identity::{Identity, KeyPair, Trust};
use super::spiffe::{Role, SpiffeId};

/// How long connection and handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing is heard is asked after this, and given up after [`KEEP_ALIVE_TIMEOUT`] more.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes under way; above the 64 KiB of HTTP/2 so that many small calls share a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A channel to the agent of `expected_host` at `address` (`HOST:PORT`), as `identity`. Doesn't connect yet.
///
/// # Errors
/// The address or the host's name can't be one.
pub fn connect_agent(address: &str, expected_host: &str, identity: &Identity) -> Result<Channel, TlsError> {
    if address
        .rsplit_once(':')
        .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
    {
        return Err(TlsError::Address(address.to_owned()));
    }
    let wrong_name = || TlsError::HostName(expected_host.to_owned());
    let name = ServerName::try_from(expected_host.to_owned()).map_err(|_| wrong_name())?;
    let expected = Expected {
        role: Role::Agent,
        name: expected_host.to_owned(),
    };
    let mut config = client_config_expecting(identity, Some(expected))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let address: Arc<str> = address.into();
    let endpoint = Endpoint::from_shared(format!("http://{expected_host}"))
        .map_err(|_| wrong_name())?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (address, name, connector) = (Arc::clone(&address), name.clone(), connector.clone());
            async move {
                let connected = async {
                    let stream = TcpStream::connect(&*address).await?;
                    stream.set_nodelay(true)?;
                    connector.connect(name, stream).await
                };
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, connected)
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"))??;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        })),
    )
}

/// Configuration for a client of another server of our CA (NATS): our certificate and the CA as they are at each handshake.
///
/// # Errors
/// rustls refuses the configuration.
pub fn client_config(identity: &Identity) -> Result<ClientConfig, TlsError> {
    client_config_expecting(identity, None)
}

fn client_config_expecting(
    identity: &Identity,
    expected: Option<Expected>,
) -> Result<ClientConfig, TlsError> {
    let servers = Servers {
        trust: identity.trust().clone(),
        expected,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
        .with_client_cert_resolver(Arc::new(Own(identity.pair().clone())));
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Own(KeyPair);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Expected {
    role: Role,
    name: String,
}

/// Verifies servers against the CA as it is now, and that they are who was meant.
#[derive(Debug)]
struct Servers {
    trust: Trust,
    expected: Option<Expected>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.trust.anchors().servers.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let Some(expected) = &self.expected else {
            return Ok(verified);
        };
        let refused = |_| rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let id = SpiffeId::of_certificate(end_entity).map_err(refused)?;
        let meant = id.domain == self.trust.domain() && id.role == expected.role && id.name == expected.name;
        if meant {
            Ok(verified)
        } else {
            tracing::warn!(found = %id, role = %expected.role, name = expected.name, "another than was meant");
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust
            .anchors()
            .servers
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust
            .anchors()
            .servers
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.anchors().servers.supported_verify_schemes()
    }
}
