//! A small CA for those who have none: a folder of PEM files.
//!
//! `ca.crt`, `ca.key`, and per identity `<role>-<name>.crt` and `<role>-<name>.key`. Keys are ECDSA P-256 in PKCS#8, readable by their
//! owner only. A certificate's subject is exactly `OU=<role>` (NATS maps users by the whole subject), its name stands in the URI SAN; an
//! agent's also bears its host's name as DNS SAN, the NATS server's `localhost` and the loopback addresses. Nothing is overwritten
//! unless asked.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::spiffe::{DEFAULT_DOMAIN, Role, SpiffeId};

const CA_NAME: &str = "Rhyzome CA";
/// How long the CA lasts where nothing is said.
pub const CA_DAYS: u32 = 3650;
/// How long a certificate lasts where nothing is said.
pub const DAYS: u32 = 365;
/// No certificate lasts longer: a hundred years.
pub const DAYS_MOST: u32 = 36_500;
/// Certificates count from this long before they are made, for clocks that are behind.
const SKEW: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);

/// Why the CA can't do it.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is one already.
    #[error("{} exists: --force overwrites it", .0.display())]
    Exists(PathBuf),
    /// There is no CA in the folder.
    #[error("no CA in {}: `rhyzome pki init` makes one", .0.display())]
    NoCa(PathBuf),
    /// A name that can't stand in a certificate.
    #[error("`{0}` can't be a component's name: a DNS label is (a-z, 0-9, -; at most 63 characters)")]
    Name(String),
    /// Too few days, or too many.
    #[error("{0} days: a certificate lasts 1 to {DAYS_MOST} days")]
    Days(u32),
    /// rcgen refuses.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What is there isn't a certificate.
    #[error("{}: {what}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What to do with files that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Overwrite.
    Replace,
}

/// A certificate to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// The role.
    pub role: Role,
    /// The name; a host's for an agent.
    pub name: String,
    /// From when; now where left out.
    pub from: Option<SystemTime>,
    /// How many days it lasts from then.
    pub days: u32,
    /// The trust domain in the URI SAN.
    pub domain: String,
}

impl Request {
    /// With the usual life and domain.
    pub fn new(role: Role, name: &str) -> Self {
        Self {
            role,
            name: name.to_owned(),
            from: None,
            days: DAYS,
            domain: DEFAULT_DOMAIN.to_owned(),
        }
    }
}

/// A folder with a CA.
#[derive(Debug)]
pub struct Ca {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes a CA in `dir`, which is made too.
    ///
    /// # Errors
    /// There is one already, or the folder can't be written.
    pub fn init(dir: &Path, days: u32, existing: Existing) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| PkiError::File {
            path: dir.to_owned(),
            source,
        })?;
        let key = KeyPair::generate()?;
        let mut params = ca_params();
        validity(&mut params, SystemTime::now(), days)?;
        let certificate = params.self_signed(&key)?;
        write_pair(
            &dir.join("ca.crt"),
            &certificate.pem(),
            &dir.join("ca.key"),
            &key.serialize_pem(),
            existing,
        )?;
        Self::open(dir)
    }

    /// Opens the CA in `dir`.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let key_path = dir.join("ca.key");
        if !key_path.exists() {
            return Err(PkiError::NoCa(dir.to_owned()));
        }
        let read =
            |path: PathBuf| std::fs::read_to_string(&path).map_err(|source| PkiError::File { path, source });
        let key = KeyPair::from_pem(&read(key_path)?)?;
        ours(&dir.join("ca.crt"), &key)?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(ca_params(), key),
        })
    }

    /// Opens the CA in `dir`, or makes it.
    ///
    /// # Errors
    /// As [`Ca::open`] and [`Ca::init`].
    pub fn open_or_init(dir: &Path) -> Result<Self, PkiError> {
        if dir.join("ca.key").exists() {
            Self::open(dir)
        } else {
            Self::init(dir, CA_DAYS, Existing::Keep)
        }
    }

    /// Makes `<role>-<name>.crt` and its key; answers the certificate's path.
    ///
    /// # Errors
    /// The name can't be one, there is one already, or the folder can't be written.
    pub fn issue(&self, request: &Request, existing: Existing) -> Result<PathBuf, PkiError> {
        if !is_label(&request.name) {
            return Err(PkiError::Name(request.name.clone()));
        }
        let id = SpiffeId {
            domain: request.domain.clone(),
            role: request.role,
            name: request.name.clone(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, request.role.as_str());
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.to_string())?)];
        match request.role {
            Role::Agent => params
                .subject_alt_names
                .push(SanType::DnsName(Ia5String::try_from(request.name.clone())?)),
            Role::Nats => params.subject_alt_names.extend([
                SanType::DnsName(Ia5String::try_from(request.name.clone())?),
                SanType::DnsName(Ia5String::try_from("localhost".to_owned())?),
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ]),
            Role::Api | Role::Scheduler | Role::Worker | Role::Admin => {}
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        validity(
            &mut params,
            request.from.unwrap_or_else(SystemTime::now),
            request.days,
        )?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let stem = format!("{}-{}", request.role, request.name);
        let path = self.dir.join(format!("{stem}.crt"));
        let key_path = self.dir.join(format!("{stem}.key"));
        write_pair(
            &path,
            &certificate.pem(),
            &key_path,
            &key.serialize_pem(),
            existing,
        )?;
        Ok(path)
    }

    /// As [`Ca::issue`], unless a certificate of that name is there and lasts another day.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub fn ensure(&self, role: Role, name: &str) -> Result<PathBuf, PkiError> {
        let path = self.dir.join(format!("{role}-{name}.crt"));
        let lasts = path.exists()
            && self.dir.join(format!("{role}-{name}.key")).exists()
            && read_certificate(&path)?.expires_at > SystemTime::now() + DAY;
        if lasts {
            Ok(path)
        } else {
            self.issue(&Request::new(role, name), Existing::Replace)
        }
    }
}

/// All that a certificate of the CA's repeats of it: its name; the key's id follows from the key.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Checks that the CA's certificate was made here and goes with its key.
fn ours(path: &Path, key: &KeyPair) -> Result<(), PkiError> {
    let wrong = |what: String| PkiError::Content {
        path: path.to_owned(),
        what,
    };
    let bytes = std::fs::read(path).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })?;
    let der = CertificateDer::from_pem_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| wrong(error.to_string()))?;
    if parsed.subject().to_string() != format!("CN={CA_NAME}") {
        return Err(wrong(
            "another program's CA: issue certificates with that; they work as they are".to_owned(),
        ));
    }
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(wrong("it doesn't go with ca.key".to_owned()));
    }
    Ok(())
}

/// Up to 63 of a-z, 0-9 and -, with neither end a hyphen (RFC 1123).
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn validity(params: &mut CertificateParams, from: SystemTime, days: u32) -> Result<(), PkiError> {
    if !(1..=DAYS_MOST).contains(&days) {
        return Err(PkiError::Days(days));
    }
    params.not_before = (from - SKEW).into();
    params.not_after = (from + DAY * days).into();
    Ok(())
}

fn write_pair(
    cert_path: &Path,
    cert: &str,
    key_path: &Path,
    key: &str,
    existing: Existing,
) -> Result<(), PkiError> {
    if existing == Existing::Keep
        && let Some(path) = [cert_path, key_path].into_iter().find(|path| path.exists())
    {
        return Err(PkiError::Exists(path.to_owned()));
    }
    write(key_path, key, 0o600)?;
    write(cert_path, cert, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut neighbour = path.as_os_str().to_owned();
    neighbour.push(".new");
    let neighbour = PathBuf::from(neighbour);
    let written = || -> std::io::Result<()> {
        if neighbour.exists() {
            std::fs::remove_file(&neighbour)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&neighbour)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&neighbour, path)
    };
    written().map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its file.
    pub path: PathBuf,
    /// Whom it names; none for the CA, or where it names no component.
    pub id: Option<SpiffeId>,
    /// The subject, as `OU=worker`.
    pub subject: String,
    /// From when it counts.
    pub begins_at: SystemTime,
    /// Until when.
    pub expires_at: SystemTime,
}

/// Reads one certificate.
///
/// # Errors
/// It can't be read, or isn't one.
pub fn read_certificate(path: &Path) -> Result<Shown, PkiError> {
    let wrong = |what: String| PkiError::Content {
        path: path.to_owned(),
        what,
    };
    let bytes = std::fs::read(path).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })?;
    let der = CertificateDer::from_pem_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| wrong(error.to_string()))?;
    let time =
        |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok(Shown {
        path: path.to_owned(),
        id: SpiffeId::of_certificate(&der).ok(),
        subject: parsed.subject().to_string(),
        begins_at: time(parsed.validity().not_before.timestamp()),
        expires_at: time(parsed.validity().not_after.timestamp()),
    })
}

/// Every certificate in the folder, by file name.
///
/// # Errors
/// The folder or a file in it can't be read.
pub fn show(dir: &Path) -> Result<Vec<Shown>, PkiError> {
    let refused = |source| PkiError::File {
        path: dir.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_certificate(path)).collect()
}
