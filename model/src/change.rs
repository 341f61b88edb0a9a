//! What happened to a thing, as those who watch are told.

use crate::job::text_enum;
use serde::{Deserialize, Serialize};

text_enum! {
    /// What happened to it.
    What {
        /// It was accepted.
        Created = "created",
        /// It is otherwise than before.
        Updated = "updated",
        /// It is gone.
        Deleted = "deleted",
    }
}
