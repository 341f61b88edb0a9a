//! The demo's REST client, by `curl`. The token and the body go through its standard input, never its arguments.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::run;

/// Calls one API as one user.
pub(crate) struct Rest {
    url: String,
    token: String,
}

impl Rest {
    /// A client of the API at `url` (without `/v1`).
    pub(crate) fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
        }
    }

    /// The JSON document at `path`, which begins with `/v1`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        json(&self.call("GET", path, None)?, path)
    }

    /// The text at `path`.
    pub(crate) fn get_text(&self, path: &str) -> Result<String> {
        self.call("GET", path, None)
    }

    /// Sends `body`, and gives the answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        json(&self.call("POST", path, Some(body))?, path)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let mut command = run::program("curl");
        command.args([
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "90",
            "-X",
            method,
            "-w",
            "\n%{http_code}",
            "-K",
            "-",
        ]);
        command.arg(format!("{}{path}", self.url));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| run::start_error(&command, error))?;
        let mut input = child.stdin.take().context("curl has no standard input")?;
        input
            .write_all(config(&self.token, body).as_bytes())
            .context("handing the request to curl")?;
        drop(input);
        let done = child.wait_with_output().context("waiting for curl")?;
        let said = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() {
            bail!(
                "{method} {path}: {}",
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        let (text, status) = said.rsplit_once('\n').context("curl told no status")?;
        if status.starts_with('2') {
            Ok(text.to_owned())
        } else {
            Err(refusal(method, path, status, text))
        }
    }
}

/// curl's configuration, as its manual describes it: in quotes, backslash and quote are escaped.
fn config(token: &str, body: Option<&Value>) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut lines = format!("header = \"Authorization: Bearer {}\"\n", quoted(token));
    if let Some(body) = body {
        lines.push_str("header = \"Content-Type: application/json\"\n");
        lines.push_str("data-raw = \"");
        lines.push_str(&quoted(&body.to_string()));
        lines.push_str("\"\n");
    }
    lines
}

fn json(text: &str, path: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{path} answered no JSON: {text}"))
}

fn refusal(method: &str, path: &str, status: &str, text: &str) -> anyhow::Error {
    match serde_json::from_str::<Value>(text) {
        Ok(problem) => anyhow!("{method} {path}: {status} {}", problem_text(&problem)),
        Err(_) => anyhow!("{method} {path}: {status} {text}"),
    }
}

/// A problem (RFC 9457) in one line and a line for each fault.
pub(crate) fn problem_text(problem: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let step = problem["step"]
        .as_str()
        .map_or_else(String::new, |step| format!(" (at step {step})"));
    let mut lines = vec![format!(
        "{} {}{step}",
        word(&problem["code"]),
        word(&problem["detail"])
    )];
    for fault in problem["errors"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  {} {} {}",
            word(&fault["pointer"]),
            word(&fault["code"]),
            word(&fault["detail"])
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    fn answer_once(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            head + &String::from_utf8(body).unwrap()
        });
        (url, server)
    }

    #[test]
    fn token_and_body_arrive_as_they_are() {
        let (url, server) = answer_once("HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\n{\"a\": 1}");
        let body = json!({"text": "a \"quoted\" \\ line\nand another"});
        assert_eq!(
            Rest::new(url, "t0k").post("/v1/x", &body).unwrap(),
            json!({"a": 1})
        );
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /v1/x HTTP/1.1"), "{request}");
        assert!(request.contains("Authorization: Bearer t0k"), "{request}");
        assert!(request.ends_with(&body.to_string()), "{request}");
    }

    #[test]
    fn a_problem_is_told_with_all_its_faults() {
        let (url, server) = answer_once(
            "HTTP/1.1 422 Unprocessable Content\r\nConnection: close\r\n\r\n\
             {\"code\":\"INVALID\",\"detail\":\"no\",\"errors\":[{\"pointer\":\"/spec\",\"code\":\"BAD\",\"detail\":\"too small\"}]}",
        );
        let error = Rest::new(url, "t").get("/v1/y").unwrap_err().to_string();
        assert_eq!(error, "GET /v1/y: 422 INVALID no\n  /spec BAD too small");
        server.join().unwrap();
    }
}
