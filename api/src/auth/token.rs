//! A bearer token (a JWT, RFC 7519, signed as RFC 7515 says) to a [`Caller`].
//!
//! What is checked, in this order: size; algorithm against an allow list; the issuer is bound to somebody; the audience is that of one
//! binding; a key of that very issuer; signature; `exp` and `nbf`. Nothing of a token is believed before its signature but what
//! chooses whom to ask, and nobody is asked for an issuer that isn't bound.

use super::cache::{TokenCache, digest_of};
use super::caller::Caller;
use super::issuers::{Issuer, Issuers};
use super::jwks::{KeyError, KeySource};
use super::provider::{self, ALLOWED};
use super::scopes::{IssuerRole, ScopeClaims, Scopes};
use crate::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, get_current_timestamp};
use rhyzome_model::text::{Form, cleaned};
use rhyzome_store::StoreError;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a token.
const TOKEN_MAX: usize = 16 * 1024;
/// Characters of a subject as kept with jobs.
const ACTOR_MAX: usize = 255;

/// Why a token isn't good. Says nothing of keys or of who is bound.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No bearer token in the header.
    #[error("There is no bearer token.")]
    Missing,
    /// Not a token that can be read.
    #[error("The token can not be read.")]
    Malformed,
    /// Unsigned, or signed with what isn't allowed.
    #[error("The token's algorithm is not accepted.")]
    Algorithm,
    /// No tenant has this issuer, or not with this audience.
    #[error("The token's issuer or audience is not accepted.")]
    Issuer,
    /// Another key, or changed.
    #[error("The token's signature is not that of its issuer.")]
    Signature,
    /// Too old.
    #[error("The token has expired.")]
    Expired,
    /// Too early.
    #[error("The token is not valid yet.")]
    NotYet,
    /// A claim that is needed isn't there.
    #[error("The token lacks a claim that is needed: iss, aud, exp and sub are.")]
    Claim,
    /// The issuer can't be asked for its keys.
    #[error("The token's issuer can not be reached now.")]
    IssuerDown,
    /// The database can't be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Store(error) => error.into(),
            TokenError::IssuerDown => Problem::unavailable(TokenError::IssuerDown.to_string()),
            TokenError::Missing
            | TokenError::Malformed
            | TokenError::Algorithm
            | TokenError::Issuer
            | TokenError::Signature
            | TokenError::Expired
            | TokenError::NotYet
            | TokenError::Claim => Problem::unauthenticated(error.to_string()),
        }
    }
}

/// What chooses whom to ask for a key.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
    aud: Audience,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    sub: Option<String>,
    client_id: Option<String>,
    azp: Option<String>,
    #[serde(flatten)]
    scopes: ScopeClaims,
}

/// See the module.
#[derive(Debug)]
pub struct Verifier {
    issuers: Issuers,
    keys: KeySource,
    cache: TokenCache,
    leeway: Duration,
}

impl Verifier {
    /// Of these issuers, keys and settings.
    pub fn new(issuers: Issuers, keys: KeySource, cache: TokenCache, leeway: Duration) -> Self {
        provider::install();
        Self {
            issuers,
            keys,
            cache,
            leeway,
        }
    }

    /// The caller of an `Authorization` header.
    pub async fn caller(&self, header: Option<&[u8]>) -> Result<Arc<Caller>, TokenError> {
        let header = header
            .and_then(|h| std::str::from_utf8(h).ok())
            .ok_or(TokenError::Missing)?;
        let (scheme, token) = header.trim().split_once(' ').ok_or(TokenError::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenError::Missing);
        }
        self.verify(token.trim()).await
    }

    /// The caller of a token.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, TokenError> {
        if token.is_empty() || token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = digest_of(token);
        let now = get_current_timestamp();
        if let Some(caller) = self.cache.get(&digest, now) {
            return Ok(caller);
        }
        let (caller, expires) = self.check(token).await?;
        let caller = Arc::new(caller);
        self.cache.put(digest, caller.clone(), expires, now);
        Ok(caller)
    }

    async fn check(&self, token: &str) -> Result<(Caller, u64), TokenError> {
        // `none` and names that aren't known don't parse at all.
        let header = jsonwebtoken::decode_header(token).map_err(|e| match e.kind() {
            ErrorKind::Json(_) | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
                TokenError::Algorithm
            }
            _ => TokenError::Malformed,
        })?;
        if !ALLOWED.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let unverified = unverified(token)?;
        let issuer = self.issuer(&unverified).await?;
        let key = self
            .keys
            .key(&issuer.url, header.kid.as_deref(), header.alg)
            .await
            .map_err(|e| match e {
                KeyError::Unknown => TokenError::Signature,
                KeyError::Unreachable(why) => {
                    tracing::warn!(issuer = issuer.url, why, "an issuer's keys can't be had");
                    TokenError::IssuerDown
                }
            })?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&issuer.url]);
        validation.set_audience(&[&issuer.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|e| refusal(e.kind()))?
            .claims;

        let role = if issuer.operators {
            IssuerRole::Operators
        } else {
            IssuerRole::Tenant
        };
        let scopes = Scopes::of_claims(&claims.scopes, &issuer.audience, role);
        let actor = claims
            .sub
            .or(claims.client_id)
            .or(claims.azp)
            .filter(|s| !s.is_empty())
            .ok_or(TokenError::Claim)?;
        let actor = cleaned(&actor, Form::Line, ACTOR_MAX).into_owned();
        let expires = (claims.exp.max(0.0) as u64).saturating_add(self.leeway.as_secs());
        Ok((Caller::new(issuer.tenant, actor, scopes, expires), expires))
    }

    /// The one binding that the token is for. Several would leave open whose it is.
    async fn issuer(&self, token: &Unverified) -> Result<Issuer, TokenError> {
        let bound = self.issuers.of_url(&token.iss).await?;
        let mut meant = bound
            .into_iter()
            .filter(|issuer| token.aud.names(&issuer.audience));
        match (meant.next(), meant.next()) {
            (Some(issuer), None) => Ok(issuer),
            (None, _) | (Some(_), Some(_)) => Err(TokenError::Issuer),
        }
    }
}

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

fn unverified(token: &str) -> Result<Unverified, TokenError> {
    let payload = token.split('.').nth(1).ok_or(TokenError::Malformed)?;
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_| TokenError::Malformed)?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
    Unverified::deserialize(claims).map_err(|_| TokenError::Claim)
}

fn refusal(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYet,
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            TokenError::Claim
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidAlgorithmName => {
            TokenError::Algorithm
        }
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => TokenError::Malformed,
        // A key that can't check it is another key; the enum is open.
        _ => TokenError::Signature,
    }
}
