//! Getting an image's bytes: by URL or from the operator's folder, into a file, hashed on the way.
//!
//! Every URL on the way, redirects too, is checked, its name resolved here, and the connection made to exactly the addresses that
//! were checked. Sizes and times are limited; a cancelled fetch stops at the next piece.

use super::address::{self, AllowList};
use super::files::storage;
use crate::driver::StepError;
use futures::StreamExt;
use rhyzome_model::job::ErrorClass;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Redirects followed.
const REDIRECTS: usize = 5;
/// For a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Between two pieces.
const READ_WITHIN: Duration = Duration::from_mins(1);
/// Of a piece read from a file, bytes.
const PIECE: usize = 256 * 1024;

/// What fetching is allowed and bound to.
#[derive(Clone, Debug)]
pub(crate) struct FetchRules {
    /// The operator's folder.
    pub(crate) image_dir: Option<PathBuf>,
    /// Operators' exceptions.
    pub(crate) allow: AllowList,
    /// Of a file, bytes.
    pub(crate) max_bytes: u64,
    /// Free space that is left alone, bytes.
    pub(crate) disk_reserve: u64,
    /// For a whole download.
    pub(crate) within: Duration,
}

/// What came.
pub(crate) struct Fetched {
    /// Hex.
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

/// Writes to a file, hashing, within the limits.
struct Sink<'a> {
    file: File,
    path: &'a Path,
    hash: Sha256,
    size: u64,
    rules: &'a FetchRules,
}

impl<'a> Sink<'a> {
    /// On the caller's thread: on another's, the file could come after a cancelled fetch has been cleared away.
    fn create(path: &'a Path, rules: &'a FetchRules) -> Result<Self, StepError> {
        let file = std::fs::File::create(path).map_err(|e| storage("making an image's file", path, &e))?;
        Ok(Self {
            file: File::from_std(file),
            path,
            hash: Sha256::new(),
            size: 0,
            rules,
        })
    }

    /// Refuses what is too large for the rules or the disk, as soon as that is known.
    fn expect(&self, total: u64) -> Result<(), StepError> {
        if total > self.rules.max_bytes {
            return Err(StepError::new(
                ErrorClass::Permanent,
                "IMAGE_TOO_LARGE",
                format!(
                    "the image's file is larger than the {} bytes that are allowed",
                    self.rules.max_bytes
                ),
            ));
        }
        let free = super::capacity::disk_free(self.path.parent().unwrap_or(Path::new("/")))?;
        let left = total.saturating_sub(self.size);
        if free < left.saturating_add(self.rules.disk_reserve) {
            return Err(StepError::new(
                ErrorClass::NoRoom,
                "NO_ROOM",
                "the host has no room for the image's file",
            ));
        }
        Ok(())
    }

    async fn take(&mut self, piece: &[u8]) -> Result<(), StepError> {
        // Space is looked at once every 64 MiB.
        let next = self.size + piece.len() as u64;
        if next > self.rules.max_bytes || next >> 26 != self.size >> 26 {
            self.expect(next)?;
        }
        self.hash.update(piece);
        self.file
            .write_all(piece)
            .await
            .map_err(|e| storage("writing an image's file", self.path, &e))?;
        self.size = next;
        Ok(())
    }

    async fn done(mut self) -> Result<Fetched, StepError> {
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        synced
            .await
            .map_err(|e| storage("writing an image's file", self.path, &e))?;
        Ok(Fetched {
            sha256: hex(&self.hash.finalize()),
            size: self.size,
        })
    }
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

pub(crate) fn cancelled() -> StepError {
    StepError::new(ErrorClass::Busy, "CANCELLED", "it was stopped before it was done")
}

fn refused(code: &str, detail: impl Into<String>) -> StepError {
    StepError::new(ErrorClass::Permanent, code, detail)
}

fn unreachable(detail: impl Into<String>, why: impl std::fmt::Display) -> StepError {
    StepError::new(ErrorClass::Unavailable, "FETCH_FAILED", detail).inside(why)
}

/// From the operator's folder.
pub(crate) async fn from_folder(
    name: &str,
    to: &Path,
    rules: &FetchRules,
    cancel: &CancellationToken,
) -> Result<Fetched, StepError> {
    let source = folder_file(name, rules)?;
    let open = || -> io::Result<std::fs::File> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&source)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidInput))
        }
    };
    let file = open().map_err(|e| {
        refused(
            "FILE_REFUSED",
            format!("{name:?} in the image folder is no plain file"),
        )
        .inside(e)
    })?;
    let size = file
        .metadata()
        .map_err(|e| storage("reading an image", &source, &e))?
        .len();
    let mut file = File::from_std(file);
    let mut sink = Sink::create(to, rules)?;
    sink.expect(size)?;
    let mut piece = vec![0; PIECE];
    loop {
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let n = file
            .read(&mut piece)
            .await
            .map_err(|e| storage("reading an image", &source, &e))?;
        if n == 0 {
            return sink.done().await;
        }
        sink.take(&piece[..n]).await?;
    }
}

/// The file of a bare name; one that leads out of the folder is refused.
fn folder_file(name: &str, rules: &FetchRules) -> Result<PathBuf, StepError> {
    let bare = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    if !bare {
        return Err(refused(
            "FILE_REFUSED",
            "an image's file is a bare name in the operator's image folder",
        ));
    }
    let Some(folder) = &rules.image_dir else {
        return Err(refused("FILE_REFUSED", "this host has no image folder"));
    };
    let missing = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => refused(
            "FILE_NOT_FOUND",
            format!("there is no {name:?} in the image folder"),
        ),
        _ => storage("reading the image folder", folder, &e),
    };
    let folder_at = folder.canonicalize().map_err(missing)?;
    let file = folder_at.join(name).canonicalize().map_err(missing)?;
    if file.parent() == Some(&folder_at) {
        Ok(file)
    } else {
        Err(refused(
            "FILE_REFUSED",
            format!("{name:?} leads out of the image folder"),
        ))
    }
}

/// By URL.
pub(crate) async fn from_url(
    url: &str,
    to: &Path,
    rules: &FetchRules,
    cancel: &CancellationToken,
) -> Result<Fetched, StepError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        done = tokio::time::timeout(rules.within, download(url, to, rules)) => done.unwrap_or_else(|_| {
            Err(unreachable(format!("the image didn't come within {} seconds", rules.within.as_secs()), "time is up"))
        }),
    }
}

async fn download(url: &str, to: &Path, rules: &FetchRules) -> Result<Fetched, StepError> {
    let mut url =
        Url::parse(url).map_err(|e| refused("URL_REFUSED", format!("the image's URL can't be read: {e}")))?;
    for _ in 0..=REDIRECTS {
        let response = request(&url, rules).await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response
                .headers()
                .get(reqwest::header::LOCATION)
                .and_then(|l| l.to_str().ok());
            let location =
                location.ok_or_else(|| refused("FETCH_REFUSED", "the server redirects to nowhere"))?;
            url = url
                .join(location)
                .map_err(|e| refused("URL_REFUSED", format!("a redirect can't be read: {e}")))?;
            continue;
        }
        if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408 {
            return Err(unreachable(
                format!("the image's server answered {}", status.as_u16()),
                status,
            ));
        }
        if status != reqwest::StatusCode::OK {
            return Err(refused(
                "FETCH_REFUSED",
                format!("the image's server answered {}", status.as_u16()),
            ));
        }
        return receive(response, to, rules).await;
    }
    Err(refused(
        "TOO_MANY_REDIRECTS",
        format!("the image's server redirected more than {REDIRECTS} times"),
    ))
}

/// Asks one server, at an address that was checked.
async fn request(url: &Url, rules: &FetchRules) -> Result<reqwest::Response, StepError> {
    let reach = rules.allow.check(url)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> = match address::literal(url) {
        Some(ip) => vec![SocketAddr::new(ip, port)],
        None => tokio::net::lookup_host((host.as_str(), port))
            .await
            .map_err(|e| unreachable(format!("the name {host} could not be resolved"), e))?
            .collect(),
    };
    if addresses.is_empty() {
        return Err(unreachable(
            format!("the name {host} has no address"),
            "nothing resolved",
        ));
    }
    let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    address::check_addresses(reach, &host, &ips)?;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(READ_WITHIN)
        .resolve_to_addrs(&host, &addresses)
        .user_agent(concat!("rhyzome-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| unreachable("the host's HTTP client doesn't work", e))?;
    client.get(url.clone()).send().await.map_err(|e| failed(&host, e))
}

fn failed(host: &str, error: reqwest::Error) -> StepError {
    // A URL may hold a token in its query: errors carry none.
    let error = error.without_url();
    let mut why = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        write!(why, ": {inner}").unwrap_or_default();
        source = inner.source();
    }
    unreachable(format!("the image couldn't be fetched from {host}"), why)
}

async fn receive(response: reqwest::Response, to: &Path, rules: &FetchRules) -> Result<Fetched, StepError> {
    let host = response.url().host_str().unwrap_or_default().to_owned();
    let mut sink = Sink::create(to, rules)?;
    let announced = response.content_length();
    if let Some(total) = announced {
        sink.expect(total)?;
    }
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        sink.take(&piece.map_err(|e| failed(&host, e))?).await?;
    }
    sink.done().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(folder: &Path) -> FetchRules {
        FetchRules {
            image_dir: Some(folder.to_owned()),
            allow: AllowList::default(),
            max_bytes: 1000,
            disk_reserve: 0,
            within: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn a_file_comes_with_its_digest_and_only_from_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("images");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), b"abc").unwrap();
        std::fs::write(folder.join("big"), vec![0; 2000]).unwrap();
        std::fs::write(dir.path().join("secret"), b"s").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("out")).unwrap();
        let to = dir.path().join("to");
        let rules = rules(&folder);
        let cancel = CancellationToken::new();
        let got = from_folder("a", &to, &rules, &cancel).await.unwrap();
        assert_eq!(
            got.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        for (name, code) in [
            ("../secret", "FILE_REFUSED"),
            ("out", "FILE_REFUSED"),
            ("", "FILE_REFUSED"),
            (".", "FILE_REFUSED"),
            ("none", "FILE_NOT_FOUND"),
            ("big", "IMAGE_TOO_LARGE"),
        ] {
            assert_eq!(
                from_folder(name, &to, &rules, &cancel)
                    .await
                    .err()
                    .map(|e| e.code)
                    .as_deref(),
                Some(code),
                "{name}"
            );
        }
        cancel.cancel();
        assert_eq!(
            from_folder("a", &to, &rules, &cancel)
                .await
                .err()
                .map(|e| e.code)
                .as_deref(),
            Some("CANCELLED")
        );
    }
}
