//! Tokens of the development issuer (JWT, RFC 7519, signed ES256), and `rhyzome token`, which prints one.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::keys::{self, Key};
use super::{AUDIENCE, OPERATORS};
use crate::args::TokenArgs;
use crate::up::stack::Stack;

/// All that a tenant's token can allow.
pub(crate) const ALL: &str = "*:*";
/// All that there is.
pub(crate) const ALL_AND_OPERATOR: &str = "operator *:*";

/// What a token says.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    /// `iss`.
    pub(crate) issuer: String,
    /// `sub`.
    pub(crate) subject: String,
    /// `scope`.
    pub(crate) scope: String,
    /// Until `exp`.
    pub(crate) lifetime: Duration,
}

/// A token, signed.
pub(crate) fn sign(key: &Key, claims: &Claims) -> Result<String> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key.id() });
    let body = json!({
        "iss": claims.issuer, "sub": claims.subject, "aud": AUDIENCE, "scope": claims.scope,
        "iat": now, "nbf": now, "exp": now + claims.lifetime.as_secs(), "jti": uuid::Uuid::now_v7(),
    });
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(body));
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// `rhyzome token`.
pub(crate) fn print(args: &TokenArgs) -> Result<()> {
    println!("{}", make(args)?);
    Ok(())
}

fn make(args: &TokenArgs) -> Result<String> {
    let stack = Stack::read(&args.data)?.with_context(|| {
        format!(
            "there is no stack in {}: `rhyzome up --data {0}` makes one",
            args.data.display()
        )
    })?;
    let (issuer, all) = if args.operator {
        (OPERATORS, ALL_AND_OPERATOR)
    } else {
        (args.tenant.as_str(), ALL)
    };
    if !args.operator && issuer == OPERATORS {
        bail!("operators are no tenant: --operator is what you want");
    }
    if !keys::is_name(issuer) {
        bail!("--tenant {issuer}: lower-case letters and digits are what it takes");
    }
    let keys = keys::ensure(&keys::folder(&args.data), issuer)?;
    let key = keys.first().context("there is no key")?;
    sign(
        key,
        &Claims {
            issuer: format!("{}/{issuer}", stack.issuer_url),
            subject: args.subject.clone(),
            scope: args.scope.clone().unwrap_or_else(|| all.to_owned()),
            lifetime: args.lifetime.duration(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    #[test]
    fn the_published_key_verifies_what_was_signed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys::ensure(dir.path(), "demo").unwrap();
        let again = keys::ensure(dir.path(), "demo").unwrap();
        assert_eq!(keys[0].id(), again[0].id());
        let claims = Claims {
            issuer: "http://127.0.0.1:1/demo".into(),
            subject: "me".into(),
            scope: ALL.into(),
            lifetime: Duration::from_mins(1),
        };
        let token = sign(&keys[0], &claims).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let jwk = again[0].jwk();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let point = [vec![4], part("x"), part("y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
            .unwrap();
        let body = URL_SAFE_NO_PAD
            .decode(message.split_once('.').unwrap().1)
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (body["aud"].as_str(), body["scope"].as_str()),
            (Some("rhyzome"), Some("*:*"))
        );
    }

    #[test]
    fn an_issuers_name_is_no_path() {
        for wrong in ["", "..", "a/b", "A", "a.b"] {
            assert!(!keys::is_name(wrong), "{wrong}");
        }
        assert!(keys::is_name("demo"));
    }
}
