//! A client of the REST API that knows resources and jobs.
//!
//! `get`, `post` and so on give any answer; `create`, `done`, `succeed` and the like end the test where it isn't the one they are named for.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::patience::PATIENCE;

/// Calls one API with one token.
#[derive(Clone, Debug)]
pub struct Rest {
    http: Client,
    base: String,
    token: Option<String>,
    headers: HeaderMap,
}

/// What the API answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request, for messages.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; null where it is none.
    pub body: Value,
}

/// An accepted request.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The resource's id.
    pub id: String,
    /// The job's id.
    pub job: String,
    /// The whole answer.
    pub answer: Answer,
}

impl Rest {
    /// A client of the API at `url` (without `/v1`).
    ///
    /// # Panics
    /// Where no HTTP client can be made.
    pub fn new(url: &str, token: Option<String>) -> Self {
        rhyzome_runtime::install_crypto();
        let http = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build();
        match http {
            Ok(http) => Self {
                http,
                base: url.trim_end_matches('/').to_owned(),
                token,
                headers: HeaderMap::new(),
            },
            Err(error) => panic!("making an HTTP client: {error}"),
        }
    }

    /// The token.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The API's address, without `/v1`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same with a header on every request.
    ///
    /// # Panics
    /// Where it can't be a header.
    #[must_use]
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        match (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            (Ok(name), Ok(value)) => changed.headers.insert(name, value),
            _ => panic!("{name}: {value} is no header"),
        };
        changed
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body.to_string())).await
    }

    /// POST without a body.
    pub async fn act(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None).await
    }

    /// POST of a text that needn't be JSON.
    pub async fn post_text(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, Some(body.to_owned())).await
    }

    /// PATCH with a merge patch.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some(body.to_string())).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<String>) -> Answer {
        let request = format!("{method} {path}");
        let content_type = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut builder = self
            .http
            .request(method, format!("{}{path}", self.base))
            .headers(self.headers.clone());
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(body) = body {
            builder = builder.header("content-type", content_type).body(body);
        }
        let answered = async {
            let response = builder.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, response.text().await?))
        };
        match answered.await {
            Ok((status, headers, text)) => Answer {
                body: serde_json::from_str(&text).unwrap_or(Value::Null),
                request,
                status,
                headers,
                text,
            },
            Err(error) => panic!("{request}: {error:?}"),
        }
    }

    /// POST of a new resource, accepted.
    pub async fn create(&self, kinds: &str, name: &str, spec: Value) -> Accepted {
        self.post(&format!("/v1/{kinds}"), &json!({ "name": name, "spec": spec }))
            .await
            .accepted()
    }

    /// A new resource, made: its `resource` as it is then.
    pub async fn make(&self, kinds: &str, name: &str, spec: Value) -> Value {
        let accepted = self.create(kinds, name, spec).await;
        self.succeed(&accepted.job).await;
        self.resource(kinds, &accepted.id).await
    }

    /// A network of its own for a test; its id.
    pub async fn network(&self, name: &str) -> String {
        let network = self
            .make("networks", name, json!({ "cidr": "10.20.0.0/24" }))
            .await;
        text(&network, "/id")
    }

    /// A resource as it is.
    pub async fn resource(&self, kinds: &str, id: &str) -> Value {
        self.get(&format!("/v1/{kinds}/{id}")).await.ok()
    }

    /// A job as it is.
    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.ok()
    }

    /// Waits until a job is done.
    pub async fn done(&self, id: &str) -> Value {
        self.done_within(PATIENCE, id).await
    }

    /// As [`Rest::done`], with a time of its own.
    pub async fn done_within(&self, patience: Duration, id: &str) -> Value {
        let until = Instant::now() + patience;
        loop {
            let left = until
                .saturating_duration_since(Instant::now())
                .as_secs()
                .clamp(1, 20);
            let job = self.get(&format!("/v1/jobs/{id}?wait={left}")).await.ok();
            if job["done"] == json!(true) {
                return job;
            }
            assert!(
                Instant::now() < until,
                "after {patience:?} this job isn't done: {job:#}"
            );
        }
    }

    /// Waits until a job is done, and succeeded.
    pub async fn succeed(&self, id: &str) -> Value {
        let job = self.done(id).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        job
    }

    /// Waits until a job is done, and failed.
    pub async fn fail(&self, id: &str) -> Value {
        let job = self.done(id).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        job
    }

    /// Waits until a job satisfies `is`.
    pub async fn job_until(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id).await;
            if is(&job) {
                return job;
            }
            assert!(Instant::now() < until, "waited in vain for {what}: {job:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a resource satisfies `is`.
    pub async fn resource_until(
        &self,
        kinds: &str,
        id: &str,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let resource = self.resource(kinds, id).await;
            if is(&resource) {
                return resource;
            }
            assert!(Instant::now() < until, "waited in vain for {what}: {resource:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a step of a job is in this state.
    pub async fn step_until(&self, job: &str, step: &str, state: &str) -> Value {
        self.job_until(job, &format!("{step} to be {state}"), |job| {
            step_state(job, step) == Some(state)
        })
        .await
    }

    /// Deletes a resource, and waits until it is gone.
    pub async fn remove(&self, kinds: &str, id: &str) {
        let accepted = self.delete(&format!("/v1/{kinds}/{id}")).await.accepted();
        self.succeed(&accepted.job).await;
        self.get(&format!("/v1/{kinds}/{id}")).await.refused(404);
    }

    /// All items of a list, page by page.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut next = path.to_owned();
        loop {
            let page = self.get(&next).await.ok();
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            match page["next_page_token"].as_str() {
                Some(token) => next = format!("{path}{joint}page_token={token}"),
                None => return items,
            }
        }
    }
}

impl Answer {
    /// 200, and its body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.request, self.text);
        self.body
    }

    /// 202 with a resource and its job, and `Location` naming the job.
    #[track_caller]
    pub fn accepted(self) -> Accepted {
        assert_eq!(self.status, 202, "{}: {}", self.request, self.text);
        let (id, job) = (text(&self.body, "/resource/id"), text(&self.body, "/job/id"));
        assert_eq!(
            self.header("location"),
            Some(format!("/v1/jobs/{job}").as_str()),
            "{}",
            self.request
        );
        Accepted {
            id,
            job,
            answer: self,
        }
    }

    /// This status with a problem document as RFC 9457 and `rest-api.md` have it; the problem.
    #[track_caller]
    pub fn refused(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text);
        let content = self.header("content-type").unwrap_or_default().to_owned();
        assert!(
            content.starts_with("application/problem+json"),
            "{}: {content}: {}",
            self.request,
            self.text
        );
        let problem = &self.body;
        assert_eq!(problem["status"], status, "{}: {problem:#}", self.request);
        for field in ["type", "title", "detail", "instance", "code", "request_id"] {
            assert!(
                problem[field].is_string(),
                "{}: no {field} in {problem:#}",
                self.request
            );
        }
        assert!(
            problem["retryable"].is_boolean(),
            "{}: no retryable in {problem:#}",
            self.request
        );
        assert_upper_snake(&problem["code"]);
        for fault in problem["errors"].as_array().into_iter().flatten() {
            assert_upper_snake(&fault["code"]);
            assert!(
                fault["pointer"].is_string() && fault["detail"].is_string(),
                "{}: {fault}",
                self.request
            );
        }
        self.body
    }

    /// A header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[track_caller]
fn assert_upper_snake(code: &Value) {
    let is = code.as_str().is_some_and(|code| {
        !code.is_empty()
            && code
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    });
    assert!(is, "{code} isn't a code in UPPER_SNAKE");
}

/// The text at a JSON Pointer.
///
/// # Panics
/// Where there is none.
#[track_caller]
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer).and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => panic!("no text at {pointer} in {value:#}"),
    }
}

/// The state of the first step of this name.
pub fn step_state<'a>(job: &'a Value, step: &str) -> Option<&'a str> {
    job["steps"]
        .as_array()?
        .iter()
        .find(|candidate| candidate["name"] == step)?["state"]
        .as_str()
}

/// The pointers of a problem's faults, sorted.
pub fn pointers(problem: &Value) -> Vec<String> {
    let faults = problem["errors"].as_array().cloned().unwrap_or_default();
    let mut pointers: Vec<String> = faults
        .iter()
        .filter_map(|fault| Some(fault["pointer"].as_str()?.to_owned()))
        .collect();
    pointers.sort();
    pointers
}

/// A small instance on a network, with the public image `tiny`.
pub fn small_instance(network: &str) -> Value {
    json!({ "vcpus": 1, "memory_mib": 128, "image": "tiny", "interfaces": [{ "network": network }] })
}

/// As [`small_instance`], only on hosts with the label `test=VALUE`.
pub fn small_instance_on(network: &str, label: &str) -> Value {
    let mut spec = small_instance(network);
    spec["placement"] = json!({ "host_labels": { "test": label } });
    spec
}

/// A name that no other test has.
pub fn unique(prefix: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..10])
}
