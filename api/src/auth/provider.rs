//! The cryptography under `jsonwebtoken`: verification by `ring`, and nothing else.
//!
//! Guarantees: no HMAC, no signing, no algorithm outside [`ALLOWED`]; RSA keys of 2048 to 8192 bits; ECDSA signatures in the fixed
//! form of JWS (RFC 7518, 3.4).

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as ring_signature;

/// What a token may be signed with. Asymmetric only: with HS* the public key would be the secret.
pub const ALLOWED: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `ring` the process's verifier of tokens. Doing it again changes nothing; another provider that was installed before stays,
/// and the allow list of [`ALLOWED`] holds with it all the same.
pub fn install() {
    if PROVIDER.install_default().is_err() {
        tracing::trace!("a provider for tokens is installed already");
    }
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let scheme = Scheme::of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, scheme, key: key.clone() }))
}

enum Scheme {
    Rsa(&'static ring_signature::RsaParameters),
    Bytes(&'static dyn ring_signature::VerificationAlgorithm),
}

impl Scheme {
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::RS256 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Self::Rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Self::Rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Self::Bytes(&ring_signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Self::Bytes(&ring_signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Self::Bytes(&ring_signature::ED25519),
            // HMAC, and whatever a later version knows.
            _ => return None,
        })
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let refused = |_| signature::Error::new();
        match (&self.scheme, self.key.kind()) {
            (Scheme::Rsa(scheme), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                ring_signature::RsaPublicKeyComponents { n, e }
                    .verify(scheme, message, signature)
                    .map_err(refused)
            }
            (Scheme::Rsa(scheme), DecodingKeyKind::SecretOrDer(der)) => {
                ring_signature::UnparsedPublicKey::new(*scheme, der)
                    .verify(message, signature)
                    .map_err(refused)
            }
            (Scheme::Bytes(scheme), DecodingKeyKind::SecretOrDer(bytes)) => {
                ring_signature::UnparsedPublicKey::new(*scheme, bytes)
                    .verify(message, signature)
                    .map_err(refused)
            }
            (Scheme::Bytes(_), DecodingKeyKind::RsaModulusExponent { .. }) => Err(signature::Error::new()),
        }
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::{ALLOWED, Scheme, verifier};
    use jsonwebtoken::{Algorithm, DecodingKey};

    #[test]
    fn no_hmac_and_no_key_of_another_family() {
        for hmac in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            assert!(Scheme::of(hmac).is_none() && !ALLOWED.contains(&hmac));
            assert!(verifier(&hmac, &DecodingKey::from_secret(b"public key")).is_err());
        }
        assert!(verifier(&Algorithm::RS256, &DecodingKey::from_ed_der(&[0; 32])).is_err());
        assert!(verifier(&Algorithm::EdDSA, &DecodingKey::from_ed_der(&[0; 32])).is_ok());
    }
}
