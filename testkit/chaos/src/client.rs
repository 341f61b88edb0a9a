//! A client of the REST API that goes on asking until it is answered, whichever API server dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reqwest::Method;
use rhyzome_testkit::Stack;
use serde_json::Value;

/// A request that isn't answered for so long is given up: the run has failed.
const PATIENCE: Duration = Duration::from_mins(5);
/// One try; longer than an API server may take while its database starts.
const TRY: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(150);

/// Asks as one tenant. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    stack: Arc<Stack>,
    http: reqwest::Client,
    pub(crate) tenant: String,
    token: String,
    turn: Arc<AtomicUsize>,
}

/// What was answered in the end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// Tries whose answer never came: what they asked for may have been accepted.
    pub(crate) lost: u32,
}

impl Answer {
    /// The id of the accepted job, if there is one.
    pub(crate) fn job(&self) -> Option<&str> {
        self.body.pointer("/job/id")?.as_str()
    }

    /// The id of the resource.
    pub(crate) fn resource(&self) -> Option<&str> {
        self.body.pointer("/resource/id")?.as_str()
    }

    /// The problem's code.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Client {
    pub(crate) fn new(stack: &Arc<Stack>, tenant: &str) -> Result<Self> {
        rhyzome_runtime::install_crypto();
        Ok(Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(TRY)
                .connect_timeout(Duration::from_secs(2))
                .build()?,
            token: stack.token(&["--tenant", tenant]),
            tenant: tenant.to_owned(),
            stack: Arc::clone(stack),
            turn: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Asks until there is an answer that isn't *try again*.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer> {
        let until = Instant::now() + PATIENCE;
        let mut lost = 0;
        loop {
            let why = match self.try_once(method, path, body, key).await {
                // The API can't reach its database, or is about to end.
                Ok((status, text)) if status == 503 || status == 429 => text,
                Ok((status, text)) => {
                    return Ok(Answer {
                        status,
                        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
                        lost,
                    });
                }
                Err(error) => format!("{error:#}"),
            };
            lost += 1;
            if Instant::now() > until {
                bail!("{method} {path}: not answered for {PATIENCE:?}: {why}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<(u16, String)> {
        let apis = self.stack.apis();
        if apis.is_empty() {
            bail!("no API server serves");
        }
        let api = &apis[self.turn.fetch_add(1, Ordering::Relaxed) % apis.len()];
        let mut request = self
            .http
            .request(method.clone(), format!("http://{api}{path}"))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            let kind = if *method == Method::PATCH {
                "application/merge-patch+json"
            } else {
                "application/json"
            };
            request = request.header("content-type", kind).body(body.to_string());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }
}
