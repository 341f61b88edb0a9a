//! Every metric of stack.md, on the role that it is about (steps are done by agents), with bounded labels.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use rhyzome_testkit::rest::{Rest, small_instance, text, unique};
use rhyzome_testkit::{Stack, eventually};

/// Metrics by role, as stack.md lists them; a histogram shows as `_count`, `_sum` and `_bucket`.
const METRICS: [(&str, &[&str]); 4] = [
    (
        "api",
        &[
            "rhyzome_build_info",
            "rhyzome_http_requests_total",
            "rhyzome_http_request_duration_seconds",
            "rhyzome_jobs_total",
            "rhyzome_nats_errors_total",
        ],
    ),
    (
        "scheduler",
        &[
            "rhyzome_build_info",
            "rhyzome_jobs_total",
            "rhyzome_job_duration_seconds",
            "rhyzome_jobs_waiting",
            "rhyzome_jobs_oldest_waiting_seconds",
            "rhyzome_jobs_undoing",
            "rhyzome_dispatch_batch_size",
            "rhyzome_settle_batch_size",
            "rhyzome_placement_refusals_total",
            "rhyzome_nats_errors_total",
            "rhyzome_host_state",
            "rhyzome_invariant_violations",
            "rhyzome_orders_poisoned_total",
        ],
    ),
    (
        "worker",
        &[
            "rhyzome_build_info",
            "rhyzome_nats_redeliveries_total",
            "rhyzome_nats_errors_total",
            "rhyzome_agent_calls_total",
        ],
    ),
    (
        "agent",
        &[
            "rhyzome_build_info",
            "rhyzome_agent_calls_total",
            "rhyzome_guests",
            "rhyzome_steps_total",
            "rhyzome_step_duration_seconds",
        ],
    ),
];

async fn scrape(url: &str) -> String {
    let (base, path) = match url.match_indices('/').nth(2) {
        Some((at, _)) => url.split_at(at),
        None => (url, "/metrics"),
    };
    let answer = Rest::new(base, None).get(path).await;
    assert_eq!(answer.status, 200, "{url}: {}", answer.text);
    answer.text
}

fn has(text: &str, metric: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix(metric).is_some_and(|rest| {
            rest.starts_with(['{', ' '])
                || ["_count", "_sum", "_bucket"]
                    .iter()
                    .any(|suffix| rest.starts_with(suffix))
        })
    })
}

#[tokio::test]
async fn every_metric_is_on_its_role() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    let created = rest
        .make("instances", &unique("guest"), small_instance(&network))
        .await;
    let job = text(
        &rest
            .all(&format!("/v1/jobs?target={}", text(&created, "/id")))
            .await[0],
        "/id",
    );
    for (role, metrics) in METRICS {
        let processes = stack.processes(role);
        assert!(!processes.is_empty(), "no {role} in stack.json");
        let mut all = String::new();
        for process in processes {
            let url = process
                .metrics_url
                .unwrap_or_else(|| panic!("{role} has no metrics_url"));
            let text = scrape(&url).await;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                for never in [
                    created["id"].as_str().unwrap(),
                    network.as_str(),
                    job.as_str(),
                    "tenant=",
                ] {
                    assert!(!line.contains(never), "labels are bounded: {line}");
                }
            }
            let info = text
                .lines()
                .find(|line| line.starts_with("rhyzome_build_info"))
                .unwrap_or_default()
                .to_owned();
            assert!(
                info.contains(&format!("role=\"{role}\"")) && info.contains("version=\""),
                "{info}"
            );
            all += &text;
        }
        let missing: Vec<&&str> = metrics.iter().filter(|metric| !has(&all, metric)).collect();
        assert!(missing.is_empty(), "{role} lacks {missing:?}");
    }
}

/// What a role's metric shows from the start: a line for every combination of these labels' values.
struct Known {
    role: &'static str,
    metric: &'static str,
    labels: Vec<(&'static str, Vec<String>)>,
}

fn known(role: &'static str, metric: &'static str, labels: &[(&'static str, &[&str])]) -> Known {
    let owned = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    Known {
        role,
        metric,
        labels: labels
            .iter()
            .map(|(label, values)| (*label, owned(values)))
            .collect(),
    }
}

const STEPS: [&str; 10] = [
    "ensure_network",
    "drop_network",
    "ensure_image",
    "drop_image",
    "ensure_disk",
    "remove_disk",
    "ensure_instance",
    "remove_instance",
    "set_power",
    "reboot",
];

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const NATS_ERRORS: [&str; 9] = [
    "disconnected",
    "slow_consumer",
    "permission",
    "server",
    "client",
    "publish",
    "ack",
    "pull",
    "broken",
];

fn all_known() -> Vec<Known> {
    let both_ways: Vec<String> = STEPS
        .iter()
        .flat_map(|step| [(*step).to_owned(), format!("undo_{step}")])
        .collect();
    let actions = |kind: &str, more: &[&str]| -> Vec<String> {
        let all = ["create", "update", "delete", "repair"].iter().chain(more);
        all.map(|action| format!("{kind}.{action}")).collect()
    };
    let kinds = [
        actions("network", &[]),
        actions("image", &[]),
        actions("instance", &["start", "stop", "reboot"]),
    ]
    .concat();
    let outcomes: &[&str] = &["succeeded", "failed", "cancelled"];
    let mut all = vec![
        known(
            "scheduler",
            "rhyzome_jobs_waiting",
            &[(
                "reason",
                &[
                    "earlier_job",
                    "reference",
                    "turn",
                    "capacity",
                    "host_unreachable",
                    "retry",
                    "undo",
                ],
            )],
        ),
        known(
            "scheduler",
            "rhyzome_placement_refusals_total",
            &[(
                "reason",
                &[
                    "unreachable",
                    "cordoned",
                    "label",
                    "network",
                    "image",
                    "apart_from",
                    "refused",
                    "vcpus",
                    "memory",
                    "disk",
                ],
            )],
        ),
        known(
            "scheduler",
            "rhyzome_orders_poisoned_total",
            &[("mode", &["forward", "undo"])],
        ),
        known(
            "scheduler",
            "rhyzome_host_state",
            &[("state", &["ready", "cordoned", "unreachable"])],
        ),
        known(
            "worker",
            "rhyzome_agent_calls_total",
            &[("method", &["Apply"]), ("code", &CODES)],
        ),
        known("worker", "rhyzome_nats_redeliveries_total", &[]),
        known(
            "agent",
            "rhyzome_agent_calls_total",
            &[
                ("method", &["Apply", "Watch", "GetInventory", "Console"]),
                ("code", &["OK", "PERMISSION_DENIED", "UNAVAILABLE"]),
            ],
        ),
        known(
            "agent",
            "rhyzome_guests",
            &[("state", &["on", "off", "crashed", "unknown"])],
        ),
        known(
            "api",
            "rhyzome_http_requests_total",
            &[
                ("route", &["/v1/networks", "/v1/images", "/v1/instances"]),
                ("method", &["POST"]),
                ("status", &["202"]),
            ],
        ),
    ];
    for role in ["api", "scheduler", "worker"] {
        all.push(known(
            role,
            "rhyzome_nats_errors_total",
            &[("kind", &NATS_ERRORS)],
        ));
    }
    let owned = |values: &[&str]| -> Vec<String> { values.iter().map(|v| (*v).to_owned()).collect() };
    all.push(Known {
        role: "agent",
        metric: "rhyzome_steps_total",
        labels: vec![
            ("step", both_ways),
            (
                "outcome",
                owned(&[
                    "succeeded",
                    "cancelled",
                    "unavailable",
                    "busy",
                    "timeout",
                    "no_room",
                    "permanent",
                    "not_here",
                    "not_here_now",
                ]),
            ),
        ],
    });
    all.push(Known {
        role: "scheduler",
        metric: "rhyzome_jobs_total",
        labels: vec![("kind", kinds), ("outcome", owned(outcomes))],
    });
    all.push(Known {
        role: "scheduler",
        metric: "rhyzome_invariant_violations",
        labels: vec![(
            "invariant",
            (1..=13)
                .map(|n| n.to_string())
                .chain(["set_back".to_owned()])
                .collect(),
        )],
    });
    all
}

fn combinations(labels: &[(&'static str, Vec<String>)]) -> Vec<Vec<String>> {
    labels.iter().fold(vec![Vec::new()], |before, (label, values)| {
        let with = |value: &String| {
            let label = format!("{label}=\"{value}\"");
            before.iter().map(move |others| {
                let mut all = others.clone();
                all.push(label.clone());
                all
            })
        };
        values.iter().flat_map(with).collect()
    })
}

#[tokio::test]
async fn what_has_known_labels_is_there_from_the_start() {
    let stack = Stack::shared();
    for Known { role, metric, labels } in all_known() {
        for process in stack.processes(role) {
            let text = scrape(&process.metrics_url.unwrap()).await;
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| {
                    line.strip_prefix(metric)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
                .collect();
            for wanted in combinations(&labels) {
                let found = lines
                    .iter()
                    .any(|line| wanted.iter().all(|label| line.contains(label)));
                assert!(
                    found,
                    "{role}: {metric} with {wanted:?}, in\n{}",
                    lines.join("\n")
                );
            }
        }
    }
}

/// Histograms have the labels that stack.md gives them.
#[tokio::test]
async fn histograms_are_told_apart_by_their_labels() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let network = rest.network(&unique("net")).await;
    rest.make("instances", &unique("guest"), small_instance(&network))
        .await;
    for (role, metric, labels) in [
        (
            "scheduler",
            "rhyzome_job_duration_seconds",
            ["kind=\"instance.create\"", "outcome=\"succeeded\""],
        ),
        (
            "agent",
            "rhyzome_step_duration_seconds",
            ["step=\"ensure_instance\"", "outcome=\"succeeded\""],
        ),
    ] {
        let mut all = String::new();
        for process in stack.processes(role) {
            all += &scrape(&process.metrics_url.unwrap()).await;
        }
        for part in ["_bucket", "_sum", "_count"] {
            let name = format!("{metric}{part}{{");
            let found = all
                .lines()
                .any(|line| line.starts_with(&name) && labels.iter().all(|label| line.contains(label)));
            assert!(found, "{role}: {name} with {labels:?}");
        }
    }
}

#[tokio::test]
async fn finished_jobs_are_counted() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let count = || async {
        let mut sum = 0.0;
        for scheduler in stack.processes("scheduler") {
            let text = scrape(&scheduler.metrics_url.unwrap()).await;
            sum += text
                .lines()
                .filter(|line| {
                    line.starts_with("rhyzome_jobs_total{")
                        && line.contains("network.create")
                        && line.contains("succeeded")
                })
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>();
        }
        sum
    };
    let before = count().await;
    rest.network(&unique("net")).await;
    let count = &count;
    eventually("the job to be counted", || async move {
        (count().await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_is_cancelled_before_it_begins_is_counted_once() {
    let stack = Stack::shared();
    let rest = stack.demo();
    let count = || async {
        let mut sum = 0.0;
        for role in ["api", "scheduler"] {
            for process in stack.processes(role) {
                let text = scrape(&process.metrics_url.unwrap()).await;
                sum += text
                    .lines()
                    .filter(|line| line.starts_with("rhyzome_jobs_total{"))
                    .filter(|line| line.contains("instance.create") && line.contains("cancelled"))
                    .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                    .sum::<f64>();
            }
        }
        sum
    };
    let before = count().await;
    let network = rest.network(&unique("net")).await;
    let mut spec = small_instance(&network);
    spec["memory_mib"] = 1_000_000.into();
    let mut waiting = Vec::new();
    for name in ["cancelled", "deleted"] {
        let accepted = rest.create("instances", &unique(name), spec.clone()).await;
        rest.job_until(&accepted.job, "the job to wait", |job| {
            job["waiting_on"]["reason"] == "capacity"
        })
        .await;
        waiting.push(accepted);
    }
    let cancel = format!("/v1/jobs/{}/cancel", waiting[0].job);
    assert_eq!(rest.act(&cancel).await.status, 202);
    assert_eq!(
        rest.delete(&format!("/v1/instances/{}", waiting[1].id))
            .await
            .status,
        202
    );
    assert!((count().await - before - 2.0).abs() < 0.5);
}
