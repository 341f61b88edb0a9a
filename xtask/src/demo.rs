//! `cargo xtask demo`: a stack, and a guest that is asked for over REST alone, watched until it answers.
//!
//! Ctrl-C ends the stack in good order at any moment. Names that an earlier demo on the same data left are numbered on.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::rest::{Rest, problem_text};
use crate::stack::{self, Ready, UpArgs};
use crate::{paths, run};

/// How often a job, a console or a page is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A guest under software emulation on a busy machine needs this long at the very most.
const GUEST_DEADLINE: Duration = Duration::from_mins(3);

/// The created instance, as the API shows it to an operator.
struct Guest {
    id: String,
    name: String,
    network: String,
}

/// `cargo xtask demo`.
pub(crate) fn command(args: &UpArgs) -> Result<()> {
    let ready = Arc::new(stack::prepare()?);
    let finished = Arc::new(AtomicBool::new(false));
    if !args.detach {
        down_on_signal(&ready, &args.data, &finished)?;
    }
    run::loud(ready.up_command(args).arg("--detach")).context("starting the stack")?;
    let shown = show(&ready, &args.data);
    if args.detach {
        return shown;
    }
    if let Err(error) = shown {
        say(&format!(
            "\nThe demo failed: {error:#}\nWhat was logged is in {}",
            log_dir(&args.data)
        ));
        run::loud(&mut ready.down_command(&args.data)).context("stopping the stack")?;
        return Err(error);
    }
    finished.store(true, Ordering::SeqCst);
    say("\nThe stack runs until Ctrl-C.");
    loop {
        thread::park();
    }
}

/// Stops the stack at the first signal that asks for an end, and ends this process.
fn down_on_signal(ready: &Arc<Ready>, data: &Path, finished: &Arc<AtomicBool>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listening for Ctrl-C")?;
    let (ready, data, finished) = (Arc::clone(ready), data.to_path_buf(), Arc::clone(finished));
    thread::spawn(move || {
        if signals.forever().next().is_none() {
            return;
        }
        say("\nStopping the stack.");
        match run::loud(&mut ready.down_command(&data)) {
            Ok(()) if finished.load(Ordering::SeqCst) => exit(0),
            Ok(()) => exit(130),
            Err(error) => {
                say(&format!("{error:#}"));
                exit(1);
            }
        }
    });
    Ok(())
}

fn show(ready: &Ready, data: &Path) -> Result<()> {
    let stack = stack_file(data)?;
    let api = stack["api_url"].as_str().context("stack.json has no api_url")?;
    let demo = Rest::new(api, token(ready, data, &[])?);
    let operator = Rest::new(api, token(ready, data, &["--operator"])?);
    say(&format!(
        "\nThe API is {api}/v1. From here on, all is asked of it by REST, as the tenant demo."
    ));

    let network = network(&demo)?;
    let guest = instance(&demo, &network)?;
    let shown = demo.get(&format!("/v1/instances/{}", guest.id))?;
    let address = first_address(&shown["status"]["addresses"])
        .with_context(|| format!("the instance has no address: {}", shown["status"]))?;
    say(&format!(
        "\n{} is {} at {address}; its own console:",
        guest.name,
        shown["state"].as_str().unwrap_or("?")
    ));
    console(&demo, &guest, address)?;
    page(&operator, &guest, address)?;
    say(&how_to_go_on(api, data, &guest));
    Ok(())
}

fn stack_file(data: &Path) -> Result<Value> {
    let path = data.join("stack.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn log_dir(data: &Path) -> String {
    stack_file(data)
        .ok()
        .and_then(|stack| stack["log_dir"].as_str().map(str::to_owned))
        .unwrap_or_else(|| data.display().to_string())
}

fn token(ready: &Ready, data: &Path, more: &[&str]) -> Result<String> {
    let mut command = run::program(&ready.rhyzome);
    command.arg("token").args(more).arg("--data").arg(data);
    Ok(run::output(&mut command)?.trim().to_owned())
}

/// The network `demo`, made or found; its id.
fn network(rest: &Rest) -> Result<String> {
    let found = rest.get("/v1/networks?name=demo")?;
    if let Some(network) = found["items"].as_array().and_then(|items| items.first())
        && matches!(network["state"].as_str(), Some("ready" | "creating" | "updating"))
    {
        say("\nThe network demo is there from an earlier demo.");
        return id(network);
    }
    let name = free_name("demo", &names(rest, "networks")?);
    let body = json!({ "name": name, "spec": { "cidr": "10.20.0.0/24", "gateway": "10.20.0.1" } });
    let accepted = create(rest, "networks", &body)?;
    follow(rest, &accepted)?;
    id(&accepted["resource"])
}

fn instance(rest: &Rest, network: &str) -> Result<Guest> {
    let name = free_name("web-1", &names(rest, "instances")?);
    let user_data = "#!/bin/sh\necho \"user data of $(hostname) ran\"\n";
    let body = json!({
        "name": name,
        "tags": { "made-by": "demo" },
        "spec": {
            "vcpus": 1,
            "memory_mib": 128,
            "image": "tiny",
            "interfaces": [{ "network": network }],
            "user_data": user_data,
        },
    });
    let accepted = create(rest, "instances", &body)?;
    follow(rest, &accepted)?;
    Ok(Guest {
        id: id(&accepted["resource"])?,
        name,
        network: network.to_owned(),
    })
}

fn create(rest: &Rest, kinds: &str, body: &Value) -> Result<Value> {
    say(&format!("\nPOST /v1/{kinds} {body}"));
    let accepted = rest.post(&format!("/v1/{kinds}"), body)?;
    say(&format!(
        "  accepted as job {}",
        accepted["job"]["id"].as_str().unwrap_or("?")
    ));
    Ok(accepted)
}

/// Prints a job's steps as they happen, and what it waits for.
fn follow(rest: &Rest, accepted: &Value) -> Result<()> {
    let path = format!("/v1/jobs/{}", id(&accepted["job"])?);
    let started = Instant::now();
    let mut told: Vec<String> = Vec::new();
    let mut waiting = String::new();
    loop {
        let job = rest.get(&path)?;
        for (number, step) in job["steps"].as_array().into_iter().flatten().enumerate() {
            let state = step["state"].as_str().unwrap_or("?");
            let line = step_line(step, state);
            if told.len() <= number {
                told.resize(number + 1, String::new());
            }
            if state != "pending" && told[number] != line {
                say(&format!("  {:7.3} s  {line}", started.elapsed().as_secs_f64()));
                told[number] = line;
            }
        }
        let reason = job["waiting_on"]["detail"].as_str().unwrap_or_default();
        if reason != waiting {
            reason.clone_into(&mut waiting);
            if !waiting.is_empty() {
                say(&format!(
                    "  {:7.3} s  waits: {waiting}",
                    started.elapsed().as_secs_f64()
                ));
            }
        }
        if job["done"] == true {
            let state = job["state"].as_str().unwrap_or("?");
            say(&format!(
                "  {:7.3} s  job {state}",
                started.elapsed().as_secs_f64()
            ));
            if state == "succeeded" {
                return Ok(());
            }
            bail!(
                "the job {} {state}: {}",
                job["kind"].as_str().unwrap_or("?"),
                problem_text(&job["error"])
            );
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn step_line(step: &Value, state: &str) -> String {
    let name = step["name"].as_str().unwrap_or("?");
    match step["detail"].as_str() {
        Some(detail) if !detail.is_empty() => format!("{name:18} {state}: {detail}"),
        Some(_) | None => format!("{name:18} {state}"),
    }
}

/// Prints the guest's console until it has told its address.
fn console(rest: &Rest, guest: &Guest, address: IpAddr) -> Result<()> {
    let path = format!("/v1/instances/{}/console?tail=200", guest.id);
    let greeting = format!("address={address}");
    let deadline = Instant::now() + GUEST_DEADLINE;
    let mut told = 0;
    loop {
        let text = rest.get_text(&path)?;
        // The last line may still be on its way.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        for line in whole.lines().skip(told) {
            say(&format!("  | {}", line.trim_end()));
            told += 1;
        }
        if whole.contains(&greeting) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the guest {} has not greeted with {address} in {} s",
                guest.name,
                GUEST_DEADLINE.as_secs()
            );
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Fetches the guest's page from inside its network.
fn page(operator: &Rest, guest: &Guest, address: IpAddr) -> Result<()> {
    let network = operator.get(&format!("/v1/networks/{}?tenant=demo", guest.network))?;
    let Some(namespace) = network["status"]["namespace"].as_str() else {
        say(&format!(
            "\nThe network has no namespace on this machine, so its page cannot be fetched from here: {}",
            network["status"]
        ));
        return Ok(());
    };
    let url = format!("http://{address}/");
    say(&format!("\nip netns exec {namespace} curl {url}"));
    let deadline = Instant::now() + GUEST_DEADLINE;
    loop {
        let fetched = run::output(run::program("ip").args([
            "netns",
            "exec",
            namespace,
            "curl",
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "5",
            &url,
        ]));
        match fetched {
            Ok(text) => {
                for line in text.lines() {
                    say(&format!("  | {line}"));
                }
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                if lines.first() != Some(&guest.name.as_str())
                    || !lines.contains(&address.to_string().as_str())
                {
                    bail!("the page is not that of {} at {address}", guest.name);
                }
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("fetching {url}"))),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

fn how_to_go_on(api: &str, data: &Path, guest: &Guest) -> String {
    let rhyzome = stack::binary().map_or_else(|_| "rhyzome".to_owned(), |path| path.display().to_string());
    let workspace = paths::workspace().map_or_else(|_| String::new(), |path| path.display().to_string());
    let data = data.display();
    format!(
        "\nTo go on:\n  \
         TOKEN=$({rhyzome} token --data {data})\n  \
         curl -H \"Authorization: Bearer $TOKEN\" {api}/v1/instances/{id}\n  \
         curl -H \"Authorization: Bearer $TOKEN\" -X POST {api}/v1/instances/{id}/stop\n  \
         curl -H \"Authorization: Bearer $TOKEN\" {api}/v1/jobs\n  \
         {api}/docs and {api}/openapi.json tell what else there is; {workspace}/README.md is where to read on",
        id = guest.id,
    )
}

/// Names and states of what is there.
fn names(rest: &Rest, kinds: &str) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    let mut page = String::new();
    loop {
        let list = rest.get(&format!("/v1/{kinds}?limit=100{page}"))?;
        for item in list["items"].as_array().into_iter().flatten() {
            let word = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            names.insert(word("name"), word("state"));
        }
        match list["next_page_token"].as_str() {
            Some(token) => page = format!("&page_token={token}"),
            None => return Ok(names),
        }
    }
}

/// `wanted`, or the next number of it that is not taken.
fn free_name(wanted: &str, taken: &BTreeMap<String, String>) -> String {
    let base = wanted
        .trim_end_matches(|last: char| last.is_ascii_digit())
        .trim_end_matches('-');
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains_key(&name) {
        number += 1;
        name = format!("{base}-{number}");
    }
    name
}

fn id(resource: &Value) -> Result<String> {
    resource["id"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("an answer without an id: {resource}"))
}

/// The first text in `value` that is an address, without a prefix length.
fn first_address(value: &Value) -> Option<IpAddr> {
    match value {
        Value::String(text) => text.split('/').next()?.parse().ok(),
        Value::Array(items) => items.iter().find_map(first_address),
        Value::Object(fields) => fields
            .get("ip")
            .or_else(|| fields.get("address"))
            .and_then(first_address),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The demo's own words are its result, so they go to the standard output.
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_names_are_numbered_on() {
        let taken = |names: &[&str]| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), String::new()))
                .collect()
        };
        assert_eq!(free_name("web-1", &taken(&[])), "web-1");
        assert_eq!(free_name("web-1", &taken(&["web-1", "web-2"])), "web-3");
        assert_eq!(free_name("demo", &taken(&["demo"])), "demo-2");
    }

    #[test]
    fn an_address_is_found_in_either_shape() {
        let address = Some("10.20.0.5".parse().unwrap());
        assert_eq!(first_address(&json!(["10.20.0.5"])), address);
        assert_eq!(
            first_address(&json!([{ "network": "n", "ip": "10.20.0.5", "mac": "52:54:00:00:00:01" }])),
            address
        );
        assert_eq!(first_address(&json!([])), None);
    }
}
