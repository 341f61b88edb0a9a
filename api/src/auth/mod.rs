//! Who asks, and what they may.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `token` | a bearer token to a [`Caller`]: algorithm, signature, `iss aud exp nbf` |
//! | `issuers` | which issuers are bound to whom, from the database |
//! | `jwks` | issuers' published keys: discovery, cache, rotation |
//! | `provider` | the cryptography under it: verification by ring |
//! | `cache` | tokens verified a moment ago |
//! | `scopes` | the grammar of permissions; pure |
//! | `caller` | the caller, and refusals that name the scope |

pub mod cache;
pub mod caller;
pub mod issuers;
pub mod jwks;
pub mod provider;
pub mod scopes;
pub mod token;

pub use caller::Caller;
pub use token::{TokenError, Verifier};
