//! An HTTP/1.1 client that costs little: one request at a time on a connection that is kept, opened again where the server closed it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longer than any `wait`.
const LIMIT: Duration = Duration::from_secs(90);

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    address: String,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Connection {
    /// To `HOST:PORT`; opened with the first request.
    pub(crate) fn new(address: &str, token: Option<&str>) -> Result<Self> {
        let authorization = match token {
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).context("the token")?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let host = HeaderValue::from_str(address).with_context(|| format!("the address {address}"))?;
        Ok(Self {
            address: address.to_owned(),
            host,
            authorization,
            sender: None,
        })
    }

    /// Sends a request, and reads the whole answer.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        header: Option<(HeaderName, &'static str)>,
        body: Bytes,
    ) -> Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some((name, value)) = header {
            request = request.header(name, HeaderValue::from_static(value));
        }
        let request = request.body(Full::new(body)).with_context(|| what.clone())?;
        let answered = async {
            let response = self.sender().await?.send_request(request).await?;
            let status = response.status();
            anyhow::Ok(Answer {
                status,
                body: response.into_body().collect().await?.to_bytes(),
            })
        };
        tokio::time::timeout(LIMIT, answered)
            .await
            .with_context(|| what.clone())?
            .context(what)
    }

    /// A JSON document; anything but success is an error.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value> {
        let answer = self.call(Method::GET, path, None, Bytes::new()).await?;
        answer.json(path, StatusCode::OK)
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let stream = TcpStream::connect(&self.address)
                .await
                .with_context(|| format!("connecting to {}", self.address))?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // How it ends, the next request learns from its sender.
            tokio::spawn(async move { connection.await.ok() });
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("no connection")
    }
}

impl Answer {
    /// The body, where the status is as wanted.
    pub(crate) fn json(&self, what: &str, wanted: StatusCode) -> Result<Value> {
        if self.status != wanted {
            bail!("{what}: {} {}", self.status, String::from_utf8_lossy(&self.body));
        }
        serde_json::from_slice(&self.body).with_context(|| format!("{what} answered no JSON"))
    }
}

/// All items of a list, page by page.
pub(crate) async fn all_items(
    connection: &mut Connection,
    path: &str,
    mut each: impl FnMut(&Value) -> Result<()>,
) -> Result<()> {
    let mut next: Option<String> = None;
    loop {
        let page = match &next {
            Some(token) => {
                connection
                    .get(&format!("{path}?limit=500&page_token={token}"))
                    .await?
            }
            None => connection.get(&format!("{path}?limit=500")).await?,
        };
        for item in page["items"]
            .as_array()
            .with_context(|| format!("{path} has no items"))?
        {
            each(item)?;
        }
        match page["next_page_token"].as_str() {
            Some(token) => next = Some(token.to_owned()),
            None => return Ok(()),
        }
    }
}
