//! What can go wrong with the database, and which SQLSTATE means what (PostgreSQL documentation, appendix A).

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, or the connection broke: it is unknown whether a commit happened.
    #[error("database out of reach: {0}")]
    Unreachable(sqlx::Error),
    /// Two transactions got in each other's way; the same again can succeed.
    #[error("database conflict, to be tried again: {0}")]
    Conflict(sqlx::Error),
    /// Somebody held a row for longer than [`crate::session`] waits. Nothing was written; the same again can succeed.
    #[error("a row in the database is held for too long: {0}")]
    Held(sqlx::Error),
    /// A constraint that the code should have kept.
    #[error("constraint {constraint} broken: {source}")]
    Constraint {
        /// Its name.
        constraint: String,
        /// From Postgres.
        source: sqlx::Error,
    },
    /// Migrations are missing.
    #[error("database is at migration {applied}, {known} is needed: run `rhyzome migrate`")]
    NotMigrated {
        /// This program's.
        known: i64,
        /// The database's.
        applied: i64,
    },
    /// A migration failed.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds a word that this program doesn't know: a later version wrote it.
    #[error("row of {table}: unknown value {value:?}, which a later version may know")]
    LaterVersion {
        /// Which.
        table: &'static str,
        /// The word.
        value: String,
    },
    /// A row that isn't as it should be.
    #[error("row of {table}: {detail}")]
    Row {
        /// Which.
        table: &'static str,
        /// What.
        detail: String,
    },
    /// Anything else.
    #[error("database: {0}")]
    Other(sqlx::Error),
}

impl StoreError {
    /// A row that can't be read.
    pub fn row(table: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Row {
            table,
            detail: detail.to_string(),
        }
    }

    /// What one who shares another's try is told of its failure.
    pub fn out_of_reach() -> Self {
        Self::Unreachable(sqlx::Error::PoolTimedOut)
    }

    /// Whether the same again can succeed by itself.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Conflict(_) | Self::Held(_))
    }

    /// The name of the broken constraint.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Constraint { constraint, .. } => Some(constraint),
            Self::Unreachable(_)
            | Self::Conflict(_)
            | Self::Held(_)
            | Self::NotMigrated { .. }
            | Self::Migration(_)
            | Self::LaterVersion { .. }
            | Self::Row { .. }
            | Self::Other(_) => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        let sqlstate = e
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .map(std::borrow::Cow::into_owned);
        match (&e, sqlstate.as_deref()) {
            // 40001 serialization_failure, 40P01 deadlock_detected
            (_, Some("40001" | "40P01")) => Self::Conflict(e),
            // lock_not_available
            (_, Some("55P03")) => Self::Held(e),
            // class 23: integrity constraint violation
            (_, Some(code)) if code.starts_with("23") => Self::Constraint {
                constraint: e
                    .as_database_error()
                    .and_then(|d| d.constraint())
                    .unwrap_or("unnamed")
                    .to_owned(),
                source: e,
            },
            // read_only_sql_transaction: the server is a standby, or has become one
            (_, Some("25006")) => Self::Unreachable(e),
            // class 08 connection exception, class 57 operator intervention (shutdown, a cancelled statement), class 53 insufficient
            // resources (connections, memory, disk), 58030 an I/O error, 25P03 the session stood still in a transaction, and was ended
            (_, Some(code))
                if code.starts_with("08")
                    || code.starts_with("57")
                    || code.starts_with("53")
                    || code == "58030"
                    || code == "25P03" =>
            {
                Self::Unreachable(e)
            }
            (
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Tls(_),
                _,
            ) => Self::Unreachable(e),
            _ => Self::Other(e),
        }
    }
}
