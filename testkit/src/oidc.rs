//! A certified OpenID provider (`oidc-provider`, for Node.js) as an issuer: `testkit/oidc-provider/`, with its version and all that it needs
//! pinned.
//!
//! Its packages are fetched once, by `npm ci`, into the user's cache, and never into the source tree. Where Node.js, npm or the packages can't
//! be had, [`OidcProvider::start`] says why.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::tools;

const PACKAGE: &str = include_str!("../oidc-provider/package.json");
const LOCK: &str = include_str!("../oidc-provider/package-lock.json");
const PROGRAM: &str = include_str!("../oidc-provider/provider.mjs");

const CLIENT: (&str, &str) = ("rhyzome-test", "a secret of this test");

/// The provider, as long as this lives.
#[derive(Debug)]
pub struct OidcProvider {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    url: String,
    http: reqwest::Client,
}

impl OidcProvider {
    /// Starts it on a free port of loopback; its tokens that are over are those for `audience` with `/expired` after it.
    ///
    /// # Errors
    /// Why it can't be had on this machine, in plain words.
    ///
    /// # Panics
    /// Where it is there, and doesn't run.
    pub fn start(audience: &str) -> Result<Self, String> {
        let (Some(node), Some(npm)) = (tools::on_path("node"), tools::on_path("npm")) else {
            return Err("node or npm is not on PATH".to_owned());
        };
        let folder = packages(&npm)?;
        let mut child = Command::new(node)
            .arg("provider.mjs")
            .args([CLIENT.0, CLIENT.1, audience])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It warns that it is no setup for production.
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("starting the OpenID provider: {error}"));
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("the OpenID provider has no pipes")
        };
        rhyzome_runtime::install_crypto();
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap_or_else(|error| panic!("a client of the OpenID provider: {error}"));
        let mut provider = Self {
            child,
            input,
            output: BufReader::new(output),
            url: String::new(),
            http,
        };
        provider.url = text(&provider.hear(), "issuer");
        Ok(provider)
    }

    /// As in `iss`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Signs and publishes with a new key of this id alone.
    ///
    /// # Panics
    /// Where it doesn't answer.
    pub fn rotate(&mut self, key_id: &str) {
        let said = self.tell(&json!(["keys", key_id]));
        assert_eq!(said, json!({ "keys": [key_id] }));
    }

    /// How often its published keys were asked for.
    ///
    /// # Panics
    /// Where it doesn't answer.
    pub fn key_requests(&mut self) -> u64 {
        let said = self.tell(&json!(["asked"]));
        said["asked"]
            .as_u64()
            .unwrap_or_else(|| panic!("the OpenID provider said {said}"))
    }

    /// An access token by the client-credentials grant (RFC 6749, 4.4), for a resource (RFC 8707).
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn token(&self, resource: &str, scope: &str) -> String {
        let basic = STANDARD.encode(format!("{}:{}", CLIENT.0, CLIENT.1.replace(' ', "+")));
        let body = format!(
            "grant_type=client_credentials&resource={resource}&scope={}",
            scope.replace(' ', "+")
        );
        let asked = async {
            self.http
                .post(format!("{}/token", self.url))
                .header("authorization", format!("Basic {basic}"))
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body)
                .send()
                .await?
                .text()
                .await
        };
        let answer = asked
            .await
            .unwrap_or_else(|error| panic!("asking for a token: {error}"));
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        value["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    /// The one key that it publishes, as a JWK.
    ///
    /// # Panics
    /// Where there isn't one.
    pub async fn published_key(&self) -> Value {
        let asked = async {
            self.http
                .get(format!("{}/jwks", self.url))
                .send()
                .await?
                .text()
                .await
        };
        let answer = asked
            .await
            .unwrap_or_else(|error| panic!("asking for the keys: {error}"));
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        match value["keys"].as_array().map(Vec::as_slice) {
            Some([key]) => key.clone(),
            Some(_) | None => panic!("not one key: {answer}"),
        }
    }

    fn tell(&mut self, what: &Value) -> Value {
        if let Err(error) = writeln!(self.input, "{what}").and_then(|()| self.input.flush()) {
            panic!("telling the OpenID provider {what}: {error}");
        }
        self.hear()
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        // It also prints notices.
        while !line.starts_with('{') {
            line.clear();
            match self.output.read_line(&mut line) {
                Ok(0) => panic!("the OpenID provider ended: {:?}", self.child.try_wait()),
                Ok(_) => {}
                Err(error) => panic!("hearing the OpenID provider: {error}"),
            }
        }
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the OpenID provider said {line}: {error}"))
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The claims of a token, unchecked.
///
/// # Panics
/// Where it is no JWT.
pub fn claims_of(token: &str) -> Value {
    let body = token.split('.').nth(1).unwrap_or_default();
    URL_SAFE_NO_PAD
        .decode(body)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| panic!("no JWT: {token}"))
}

fn text(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field}: {value}"))
        .to_owned()
}

/// The folder with the packages, by what the lock and the program are; made where it isn't there.
fn packages(npm: &Path) -> Result<PathBuf, String> {
    let Some(cache) = tools::cache() else {
        return Err("there is no folder for a cache: neither XDG_CACHE_HOME nor HOME is set".to_owned());
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{LOCK}\n{PROGRAM}").as_bytes());
    let name: String = digest
        .as_ref()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let parent = cache.join("oidc-provider");
    let folder = parent.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let coming = std::fs::create_dir_all(&parent)
        .and_then(|()| tempfile::Builder::new().prefix(".coming-").tempdir_in(&parent))
        .map_err(|error| format!("{} can't be written to: {error}", parent.display()))?;
    for (file, content) in [
        ("package.json", PACKAGE),
        ("package-lock.json", LOCK),
        ("provider.mjs", PROGRAM),
    ] {
        std::fs::write(coming.path().join(file), content)
            .map_err(|error| format!("{file} can't be written: {error}"))?;
    }
    let output = Command::new(npm)
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
        ])
        .current_dir(coming.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("npm can't be run: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "npm doesn't get the packages: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let whole = coming.keep();
    match std::fs::rename(&whole, &folder) {
        Ok(()) => Ok(folder),
        // Another test was faster.
        Err(_) if folder.is_dir() => {
            let _ = std::fs::remove_dir_all(&whole);
            Ok(folder)
        }
        Err(error) => Err(format!("{} can't be made: {error}", folder.display())),
    }
}
