//! Certificate, key and CA from files, re-read when the files change.
//!
//! The files' times and inodes are looked at when a handshake needs them, at most once per [`LOOK_AGAIN`]. Files that don't fit
//! together (half of a renewal is written) leave what was there in force until they do.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::TlsError;
use super::spiffe::{DEFAULT_DOMAIN, Role, SpiffeId};

/// How long a file's state is believed.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Section `[tls]`: either a folder laid out as `rhyzome pki` does it, or the three files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A folder with `ca.crt`, `<role>-<name>.crt` and `<role>-<name>.key`.
    pub pki: Option<PathBuf>,
    /// The CAs that are trusted, PEM; `pki`'s where left out.
    pub ca: Option<PathBuf>,
    /// Our own certificate chain, PEM; `pki`'s where left out.
    pub cert: Option<PathBuf>,
    /// Our own key, PEM; `pki`'s where left out.
    pub key: Option<PathBuf>,
    /// The trust domain in URI SANs.
    pub trust_domain: String,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            pki: None,
            ca: None,
            cert: None,
            key: None,
            trust_domain: DEFAULT_DOMAIN.to_owned(),
        }
    }
}

impl TlsConfig {
    /// The files of `<role>-<name>`.
    ///
    /// # Errors
    /// Neither a folder nor the files are named.
    pub fn files(&self, role: Role, name: &str) -> Result<TlsFiles, TlsError> {
        let of_pki = self.pki.as_deref().map(|pki| TlsFiles::in_pki(pki, role, name));
        let choose = |named: &Option<PathBuf>, in_pki: Option<PathBuf>, key: &str| {
            named.clone().or(in_pki).ok_or_else(|| {
                TlsError::Settings(format!(
                    "tls.{key} is not set: name it, or tls.pki, the folder that `rhyzome pki init` made"
                ))
            })
        };
        Ok(TlsFiles {
            ca: choose(&self.ca, of_pki.as_ref().map(|files| files.ca.clone()), "ca")?,
            cert: choose(
                &self.cert,
                of_pki.as_ref().map(|files| files.cert.clone()),
                "cert",
            )?,
            key: choose(&self.key, of_pki.map(|files| files.key), "key")?,
            trust_domain: self.trust_domain.clone(),
        })
    }
}

/// Where one identity's files are. All PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The CAs that are trusted.
    pub ca: PathBuf,
    /// The certificate chain, the own one first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The trust domain in URI SANs.
    #[serde(default = "default_domain")]
    pub trust_domain: String,
}

fn default_domain() -> String {
    DEFAULT_DOMAIN.to_owned()
}

impl TlsFiles {
    /// In a folder laid out as `rhyzome pki` does it.
    pub fn in_pki(pki: &Path, role: Role, name: &str) -> Self {
        Self {
            ca: pki.join("ca.crt"),
            cert: pki.join(format!("{role}-{name}.crt")),
            key: pki.join(format!("{role}-{name}.key")),
            trust_domain: default_domain(),
        }
    }
}

/// What tells a file from its successor: inode, length, modification time in nanoseconds.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Result<Stamp, TlsError> {
    let meta = std::fs::metadata(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })
}

/// Something made from files, made anew when they change.
struct Reread<T> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    state: Mutex<ReadState<T>>,
}

struct ReadState<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
    looked_at: Instant,
    complained: Option<String>,
}

impl<T> Reread<T> {
    fn new(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let stamps = paths.iter().map(|path| stamp(path)).collect::<Result<_, _>>()?;
        let value = Arc::new(make()?);
        let state = ReadState {
            value,
            stamps,
            looked_at: Instant::now(),
            complained: None,
        };
        Ok(Self {
            paths,
            make: Box::new(make),
            state: Mutex::new(state),
        })
    }

    fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= LOOK_AGAIN {
            state.looked_at = Instant::now();
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    fn look(&self, state: &mut ReadState<T>) {
        let anew = self
            .paths
            .iter()
            .map(|path| stamp(path))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|stamps| {
                if stamps == state.stamps {
                    Ok(None)
                } else {
                    (self.make)().map(|value| Some((stamps, value)))
                }
            });
        match anew {
            Ok(None) => state.complained = None,
            Ok(Some((stamps, value))) => {
                tracing::info!(files = ?self.paths, "re-read");
                state.stamps = stamps;
                state.value = Arc::new(value);
                state.complained = None;
            }
            Err(error) => {
                let said = error.to_string();
                if state.complained.as_ref() != Some(&said) {
                    tracing::warn!(%error, "keeping the certificates read before");
                    state.complained = Some(said);
                }
            }
        }
    }
}

/// The CAs that are trusted, and the domain in which names count. Shared by all identities of a process. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    file: Arc<Reread<Anchors>>,
    domain: Arc<str>,
}

pub(super) struct Anchors {
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) servers: Arc<WebPkiServerVerifier>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("ca", &self.file.paths)
            .field("domain", &self.domain)
            .finish()
    }
}

impl Trust {
    /// Reads the CA's file.
    ///
    /// # Errors
    /// It can't be read or has no certificate in it.
    pub fn load(ca: &Path, domain: &str) -> Result<Self, TlsError> {
        let path = ca.to_owned();
        let file = Reread::new(vec![path.clone()], move || read_anchors(&path))?;
        Ok(Self {
            file: Arc::new(file),
            domain: domain.into(),
        })
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub(super) fn anchors(&self) -> Arc<Anchors> {
        self.file.current()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_anchors(path: &Path) -> Result<Anchors, TlsError> {
    let wrong = |what: String| TlsError::Content {
        path: path.to_owned(),
        what,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(path)?) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(Anchors { clients, servers })
}

/// One certificate chain with its key, and the component it names. Cheap to clone.
#[derive(Clone)]
pub struct KeyPair {
    files: Arc<Reread<Certified>>,
    id: SpiffeId,
}

struct Certified {
    key: Arc<CertifiedKey>,
    id: SpiffeId,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("files", &self.files.paths)
            .field("id", &self.id)
            .finish()
    }
}

impl KeyPair {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// They can't be read, don't belong together, or name no component.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        let files = Reread::new(vec![cert.clone(), key.clone()], move || read_pair(&cert, &key))?;
        let id = files.current().id.clone();
        Ok(Self {
            files: Arc::new(files),
            id,
        })
    }

    /// Whom the certificate named when it was first read.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.files.current().key)
    }
}

fn read_pair(cert: &Path, key: &Path) -> Result<Certified, TlsError> {
    let wrong = |path: &Path, what: String| TlsError::Content {
        path: path.to_owned(),
        what,
    };
    let chain = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(cert, error.to_string()))?;
    let own = chain
        .first()
        .ok_or_else(|| wrong(cert, "no certificate in it".into()))?;
    let id = SpiffeId::of_certificate(own).map_err(|error| wrong(cert, error.to_string()))?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|error| wrong(key, format!("doesn't go with {}: {error}", cert.display())))?;
    Ok(Certified {
        key: Arc::new(certified),
        id,
    })
}

/// A process's own identity: whom it trusts and who it is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    trust: Trust,
    pair: KeyPair,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// A file can't be read, or they don't belong together.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let trust = Trust::load(&files.ca, &files.trust_domain)?;
        Ok(Self {
            pair: KeyPair::load(&files.cert, &files.key)?,
            trust,
        })
    }

    /// Of parts read already.
    pub fn of(trust: Trust, pair: KeyPair) -> Self {
        Self { trust, pair }
    }

    /// The role that the certificate names.
    pub fn role(&self) -> Role {
        self.pair.id.role
    }

    /// The name that the certificate names; a host's for an agent.
    pub fn name(&self) -> &str {
        &self.pair.id.name
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Its certificate and key.
    pub fn pair(&self) -> &KeyPair {
        &self.pair
    }
}
