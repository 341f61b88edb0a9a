//! What a request says, read strictly: what isn't known is refused, with every fault at once.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `json` | JSON in one pass, a field named twice refused; the hash of a document's meaning |
//! | `envelope` | `{name, tags, spec}` of a create, and a merge patch of it |
//! | `query` | query parameters |
//! | `path` | the variable part of a path |
//! | `headers` | `Prefer`, `If-Match`, `Idempotency-Key` |

pub mod envelope;
pub mod headers;
pub mod json;
pub mod path;
pub mod query;
