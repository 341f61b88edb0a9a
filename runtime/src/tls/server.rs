//! The server's side: connections whose callers are certified, as tonic takes them.
//!
//! A handshake that fails, or whose caller's certificate names no component of the trust domain, is closed and counted in the log; it
//! never ends the listener. Sessions are not resumed, so that every connection proves its certificate anew.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::TlsError;
use super::identity::{Identity, KeyPair, Trust};
use super::spiffe::{Peer, SpiffeId};

/// How long a caller may take for its handshake: less than callers wait for theirs, so that one who says nothing makes room for them in time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// Handshakes under way at once; more wait in the listener's backlog.
const HANDSHAKES_AT_ONCE: usize = 1024;

/// What a server needs: whom it trusts, and its certificates by host name.
#[derive(Debug, Clone)]
pub struct ServerTls {
    trust: Trust,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// For one identity, whatever name the caller asks for (a caller checks the name itself).
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn single(identity: &Identity) -> Result<Self, TlsError> {
        Self::several(identity.trust(), [identity.pair().clone()])
    }

    /// For several hosts behind one listener: the certificate is chosen by the server name that the caller asks for.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn several(trust: &Trust, pairs: impl IntoIterator<Item = KeyPair>) -> Result<Self, TlsError> {
        let by_name: HashMap<String, KeyPair> = pairs
            .into_iter()
            .map(|pair| (pair.id().name.to_ascii_lowercase(), pair))
            .collect();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_client_cert_verifier(Arc::new(Callers(trust.clone())))
                .with_cert_resolver(Arc::new(ByName(by_name)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            trust: trust.clone(),
            config: Arc::new(config),
        })
    }
}

#[derive(Debug)]
struct ByName(HashMap<String, KeyPair>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello
            .server_name()
            .and_then(|name| self.0.get(&name.to_ascii_lowercase()));
        let only = || {
            if self.0.len() == 1 {
                self.0.values().next()
            } else {
                None
            }
        };
        named.or_else(only).map(KeyPair::certified)
    }
}

/// Verifies callers against the CA as it is now.
#[derive(Debug)]
struct Callers(Trust);

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0
            .anchors()
            .clients
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0
            .anchors()
            .clients
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0
            .anchors()
            .clients
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.anchors().clients.supported_verify_schemes()
    }
}

/// A connection with a certified caller; gives [`Peer`] to requests.
#[derive(Debug)]
pub struct TlsStream {
    inner: tokio_rustls::server::TlsStream<TcpStream>,
    peer: Peer,
}

impl TlsStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for TlsStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// The listener's certified connections, until `token` is cancelled: for tonic's `serve_with_incoming_shutdown`.
pub fn incoming(
    listener: TcpListener,
    tls: ServerTls,
    token: CancellationToken,
) -> ReceiverStream<io::Result<TlsStream>> {
    let (sender, receiver) = mpsc::channel(HANDSHAKES_AT_ONCE);
    tokio::spawn(accept(listener, tls, token, sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    token: CancellationToken,
    sender: mpsc::Sender<io::Result<TlsStream>>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => return,
            () = sender.closed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let (tls, sender) = (tls.clone(), sender.clone());
                tokio::spawn(async move {
                    match handshake(stream, &tls).await {
                        // The receiver is gone when the server ends: so goes the connection.
                        Ok(stream) => drop(sender.send(Ok(stream)).await),
                        Err(error) => refused(address, &error),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, or the caller is gone again: neither ends the listener.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn refused(address: SocketAddr, error: &io::Error) {
    tracing::warn!(%address, %error, "refused a connection");
}

async fn handshake(stream: TcpStream, tls: &ServerTls) -> io::Result<TlsStream> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let inner = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let (_, session) = inner.get_ref();
    let certificate = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the caller has no certificate"))?;
    let id = SpiffeId::of_certificate(certificate).map_err(io::Error::other)?;
    if id.domain != tls.trust.domain() {
        return Err(io::Error::other(format!(
            "the caller is of the trust domain {}",
            id.domain
        )));
    }
    let sni = session.server_name().map(str::to_owned);
    Ok(TlsStream {
        peer: Peer {
            role: id.role,
            name: id.name,
            sni,
        },
        inner,
    })
}
