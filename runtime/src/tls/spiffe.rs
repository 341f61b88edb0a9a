//! Roles and names in certificates: `spiffe://<domain>/<role>/<name>`
//! (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The trust domain where none is configured.
pub const DEFAULT_DOMAIN: &str = "rhyzome";

/// What a component is. `Nats` is the message server's own certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes requests.
    Api,
    /// Dispatches and settles.
    Scheduler,
    /// Drives orders.
    Worker,
    /// Serves a host; the name is the host's.
    Agent,
    /// An operator's command line.
    Admin,
    /// The message server.
    Nats,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Api,
        Self::Scheduler,
        Self::Worker,
        Self::Agent,
        Self::Admin,
        Self::Nats,
    ];

    /// As it stands in URI SANs, subjects and file names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Agent => "agent",
            Self::Admin => "admin",
            Self::Nats => "nats",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: api, scheduler, worker, agent, admin and nats are")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError(text.to_owned()))
    }
}

/// A component's name in a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// The trust domain.
    pub domain: String,
    /// What it is.
    pub role: Role,
    /// Which one; a host's name for agents.
    pub name: String,
}

/// Why a certificate or a URI gives no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Not a URI of ours.
    #[error("`{0}` isn't spiffe://DOMAIN/ROLE/NAME")]
    Uri(String),
    /// A role that isn't known.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// Not exactly one SPIFFE URI in the certificate.
    #[error("the certificate has {0} SPIFFE URIs, and must have one")]
    Count(usize),
    /// Not a certificate.
    #[error("not an X.509 certificate: {0}")]
    Certificate(String),
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let wrong = || SpiffeError::Uri(text.to_owned());
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(wrong)?.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !plain(domain) || !plain(name) {
            return Err(wrong());
        }
        Ok(Self {
            domain: domain.to_owned(),
            role: role.parse()?,
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.domain, self.role, self.name)
    }
}

impl SpiffeId {
    /// The one SPIFFE URI among a certificate's subject alternative names.
    ///
    /// # Errors
    /// It has none, several, or one that isn't ours.
    pub fn of_certificate(der: &CertificateDer<'_>) -> Result<Self, SpiffeError> {
        let (_, certificate) = X509Certificate::from_der(der.as_ref())
            .map_err(|error| SpiffeError::Certificate(error.to_string()))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| SpiffeError::Certificate(error.to_string()))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some(*uri)
                } else {
                    None
                }
            })
            .filter(|uri| uri.starts_with("spiffe://"))
            .collect();
        match uris.as_slice() {
            [uri] => uri.parse(),
            several => Err(SpiffeError::Count(several.len())),
        }
    }
}

/// The certified caller of a request: `request.extensions().get::<Peer>()` in a tonic service behind [`super::incoming`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// Which one.
    pub name: String,
    /// The server name that it asked for; an agent of many hosts compares it with the host in the call.
    pub sni: Option<String>,
}

impl Peer {
    /// The caller of `request`, if it is one of `roles`.
    ///
    /// # Errors
    /// UNAUTHENTICATED where nobody is certified, PERMISSION_DENIED where the role may not.
    pub fn require<'a, T>(request: &'a tonic::Request<T>, roles: &[Role]) -> Result<&'a Self, tonic::Status> {
        let peer = request
            .extensions()
            .get::<Self>()
            .ok_or_else(|| tonic::Status::unauthenticated("the caller has no certificate"))?;
        if roles.contains(&peer.role) {
            Ok(peer)
        } else {
            Err(tonic::Status::permission_denied(format!(
                "the role {} may not call this",
                peer.role
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let id: SpiffeId = "spiffe://rhyzome/agent/host-1".parse().unwrap();
        assert_eq!((id.role, id.name.as_str()), (Role::Agent, "host-1"));
        assert_eq!(id.to_string(), "spiffe://rhyzome/agent/host-1");
        for wrong in [
            "https://rhyzome/agent/host-1",
            "spiffe://rhyzome/agent",
            "spiffe://rhyzome/agent/",
            "spiffe:///agent/host-1",
            "spiffe://rhyzome/agent/host-1/x",
            "spiffe://rhyzome/root/host-1",
            "spiffe://rhyzome/agent/host 1",
        ] {
            assert!(wrong.parse::<SpiffeId>().is_err(), "{wrong}");
        }
    }
}
