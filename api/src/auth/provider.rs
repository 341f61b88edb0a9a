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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is jsonwebtoken's"
)]
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is jsonwebtoken's"
)]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let scheme = Scheme::of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        scheme,
        key: key.clone(),
    }))
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

    // A key made for this test alone, and what `openssl dgst -sha256` signed with it: PKCS#1 v1.5, and PSS with a salt of 32 bytes.
    const MESSAGE: &[u8] = b"header.payload";
    const MODULUS: &str = "y_HbpEQQX4UVIWo1az86cHUoS5RxjyOyf35Y9fE2harMoQ7yOE6SiWOIXiNqKJqckuZHCcfvM9fSFTMLD6chw9rAjn\
        LpFzIma19y6PMLlWvIWmGgrysO4mfgjmlI3ZhG9iDvGkQJJnw8hjboZFdM-PBXJTpMxJlsGZx6en8FkC4pc6OtMOtN\
        kfZMjfbMZbe_3A6HhRcKyc4WGK2EBDgkx92ixSfo7_VLISPIBXVMXtDeJxR4Uni2Vjr9RsocWSNfXKGLDSv8nvqwK9\
        AVd6q3azQztIg_ePBclbSZ7QmdnIekaXX8Dri9X3zX7DfE3l8hDFefQ5hgiWMm68OTmsP9xQ";
    const PKCS1: &str = "HNQxYVe0RVizRQ8uEIR5UU_BQwhQ9TNIXDRFAV9eS5qZq0mGTdA-Ua2f3RUmYfdqI5qL6DfFnA9S6-yjzXA2uRrHsC\
        DO8I2uWStRhrgbaWaF88mSpteVxHMJlPZfKvOQp-W-QwNp83zjYBRDAMA7MfglKrg-lGjCpEMpCD4Tc154jO71BJeE\
        7_Gbq3wOgnNrkQ8BTdyqc7Qdgmufu3PDDTVI_4bkPyTqIfmG38Rv7-Yn6i0qEb-FmMItkCEFL8nYsrJX4CdN8Ro0xg\
        KrNeOhMoJW_1czC9_9Yav7JeKi-kILahwpgAGGgDwdW7cS1ihc6O0vmdBMwi2b2ZYuv00NFg";
    const PSS: &str = "pJEbStzo7nWpJ3Y_l3ScQ7-868lrIIP_gHH7pNY6v4mTSwSjb2cpL6PDX24KV4tqJU4B8Ty0id0_5uUyAz-xXpJV38\
        PdL9O5rSnKGIvUv2-MePmoe77xD6dwZxXPJEUAwFO-T3MvWJVjl60l6EnzeikohyvrbrlEGPCF3qeENDO1uJ1-XxV2\
        Ge5qknCWkHWTIUmcqdABj9uk4DKev7XiF6Pesbd-yVJ7zNYnpzr4M7_ZgfCA5hcoxJX8AwXf18oM-lTGR_Bov7_OFv\
        ZHcS-g2fy6p85nD-L2I9FqBVQ3D8L8-Md3uahPpkzSuANPOv2FZr_JQ7uJACUowcEOtK7zeg";

    #[test]
    fn rsa_signatures_of_openssl() {
        super::install();
        let key = DecodingKey::from_rsa_components(MODULUS, "AQAB").unwrap();
        let verify =
            |signature, message, algorithm| jsonwebtoken::crypto::verify(signature, message, &key, algorithm);
        assert!(verify(PKCS1, MESSAGE, Algorithm::RS256).unwrap());
        assert!(verify(PSS, MESSAGE, Algorithm::PS256).unwrap());
        assert!(!verify(PSS, MESSAGE, Algorithm::RS256).unwrap());
        assert!(!verify(PKCS1, b"header.payloae", Algorithm::RS256).unwrap());
        assert!(!verify(PKCS1, MESSAGE, Algorithm::RS512).unwrap());
    }
}
