//! The public image `tiny`, made through REST as an operator would, if it isn't there yet.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use super::layout::Layout;
use crate::issuer::token::{ALL_AND_OPERATOR, Claims, sign};
use crate::issuer::{OPERATORS, keys};

/// Its name, and its file's in the operator's folder.
const NAME: &str = "tiny";
pub(crate) const FILE: &str = "tiny.qcow2";
/// A host checks and copies it: seconds. Longer means that something is wrong.
const LIMIT: Duration = Duration::from_secs(90);

/// What became of it, as a sentence for who looks.
pub(crate) async fn ensure(layout: &Layout, api_url: &str, issuer_url: &str) -> Result<String> {
    let keys = keys::read(&keys::folder(layout.root()), OPERATORS)?;
    let claims = Claims {
        issuer: format!("{issuer_url}/{OPERATORS}"),
        subject: "up".to_owned(),
        scope: ALL_AND_OPERATOR.to_owned(),
        lifetime: Duration::from_mins(10),
    };
    let token = sign(keys.first().context("the operators' issuer has no key")?, &claims)?;
    let rest = Rest {
        client: Client::builder().timeout(Duration::from_secs(30)).build()?,
        base: format!("{api_url}/v1"),
        token,
    };
    let deadline = tokio::time::Instant::now() + LIMIT;
    if let Some(image) = rest.find().await? {
        match image["state"].as_str() {
            Some("failed" | "deleting") => rest.delete(&image, deadline).await?,
            Some("creating") => match image["active_job"]
                .as_str()
                .or_else(|| image["active_job"]["id"].as_str())
            {
                Some(job) => return Ok(told(&rest.done(job, deadline).await?)),
                None => return Ok("is being made".to_owned()),
            },
            _ => return Ok("is there".to_owned()),
        }
    }
    let body = json!({
        "name": NAME, "tags": {},
        "spec": { "source": { "file": FILE }, "format": "qcow2", "visibility": "public" },
    });
    let made = rest.call(reqwest::Method::POST, "/images", Some(&body)).await?;
    let job = made["job"]["id"].as_str().context("the API named no job")?;
    Ok(told(&rest.done(job, deadline).await?))
}

fn told(job: &Value) -> String {
    match job["state"].as_str() {
        Some("succeeded") => "is there".to_owned(),
        Some("failed" | "cancelled") => format!(
            "could not be made: {}",
            job["error"]["detail"].as_str().unwrap_or("no reason given")
        ),
        _ => format!(
            "is not there yet: {}",
            job["waiting_on"]["detail"]
                .as_str()
                .unwrap_or("its job still runs")
        ),
    }
}

struct Rest {
    client: Client,
    base: String,
    token: String,
}

impl Rest {
    async fn call(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let reply = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = reply.status();
        let text = reply.text().await.with_context(|| format!("{method} {path}"))?;
        if status == StatusCode::NOT_FOUND {
            return Ok(Value::Null);
        }
        if !status.is_success() {
            bail!("{method} {path}: {status} {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path} answered no JSON"))
    }

    async fn find(&self) -> Result<Option<Value>> {
        let list = self
            .call(
                reqwest::Method::GET,
                &format!("/images?name={NAME}&tenant=system"),
                None,
            )
            .await?;
        Ok(list["items"].as_array().and_then(|items| items.first()).cloned())
    }

    async fn delete(&self, image: &Value, deadline: tokio::time::Instant) -> Result<()> {
        let id = image["id"].as_str().context("an image without an id")?;
        let reply = self
            .call(reqwest::Method::DELETE, &format!("/images/{id}"), None)
            .await?;
        if let Some(job) = reply["job"]["id"].as_str() {
            self.done(job, deadline).await?;
        }
        Ok(())
    }

    async fn done(&self, job: &str, deadline: tokio::time::Instant) -> Result<Value> {
        loop {
            let job = self
                .call(reqwest::Method::GET, &format!("/jobs/{job}?wait=5"), None)
                .await?;
            if job["done"].as_bool() == Some(true) || tokio::time::Instant::now() >= deadline {
                return Ok(job);
            }
        }
    }
}
