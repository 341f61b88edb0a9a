//! The section `[database]` of the configuration: where Postgres is. The password comes from a file, or stands in the URL where that
//! comes from the environment or a file of its own.

use crate::{Store, StoreError};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use std::path::PathBuf;
use std::str::FromStr;

/// `[database]`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://USER@HOST:PORT/DATABASE`, or with `?host=/FOLDER` for a Unix socket.
    pub url: String,
    /// A file with the password; a line end after it doesn't count.
    pub password_file: Option<PathBuf>,
    /// Connections that a process keeps at most.
    pub max_connections: u32,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "postgres://rhyzome@localhost/rhyzome".to_owned(),
            password_file: None,
            max_connections: 8,
        }
    }
}

/// The URL may hold a password: it isn't shown.
impl std::fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("password_file", &self.password_file)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// Why the section can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseConfigError {
    /// Not a URL of Postgres.
    #[error("database.url isn't a URL of Postgres (postgres://USER@HOST:PORT/DATABASE): {0}")]
    Url(String),
    /// The file can't be read.
    #[error("database.password_file {}: {source}", path.display())]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can't be reached there, or refuses.
    #[error("Postgres at {place} (database.url): {source}")]
    Connect {
        /// Whom and what `database.url` names, without the password.
        place: String,
        /// Why.
        source: StoreError,
    },
}

fn place(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(
        || options.get_host().to_owned(),
        |socket| socket.display().to_string(),
    );
    format!(
        "{host}, port {}, database {}, as {}",
        options.get_port(),
        options.get_database().unwrap_or(options.get_username()),
        options.get_username()
    )
}

impl DatabaseConfig {
    /// As the driver takes it, the password read from its file.
    pub fn options(&self) -> Result<PgConnectOptions, DatabaseConfigError> {
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| self.url.starts_with(scheme))
        {
            return Err(DatabaseConfigError::Url(
                "it begins with something else".to_owned(),
            ));
        }
        let options = PgConnectOptions::from_str(&self.url)
            .map_err(|error| DatabaseConfigError::Url(error.to_string()))?;
        let Some(path) = &self.password_file else {
            return Ok(options);
        };
        let password = std::fs::read_to_string(path).map_err(|source| DatabaseConfigError::PasswordFile {
            path: path.clone(),
            source,
        })?;
        Ok(options.password(password.trim_end_matches(['\n', '\r'])))
    }

    /// A store that connects when it is first used.
    pub fn store(&self) -> Result<Store, DatabaseConfigError> {
        Ok(Store::connect_lazy(self.options()?, self.max_connections))
    }

    /// A store that is connected.
    pub async fn connect(&self) -> Result<Store, DatabaseConfigError> {
        let options = self.options()?;
        let place = place(&options);
        let connected = Store::connect(options, self.max_connections).await;
        connected.map_err(|source| DatabaseConfigError::Connect { place, source })
    }
}
