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

#[tokio::test]
async fn counters_with_known_labels_are_there_from_the_start() {
    let stack = Stack::shared();
    let mut all = String::new();
    for process in stack.processes("agent") {
        all += &scrape(&process.metrics_url.unwrap()).await;
    }
    for step in ["ensure_network", "ensure_disk", "remove_instance", "reboot"] {
        let found = all.lines().any(|line| {
            line.starts_with("rhyzome_steps_total{") && line.contains(&format!("step=\"{step}\""))
        });
        assert!(found, "rhyzome_steps_total of {step}");
    }
    let scheduler = scrape(&stack.process("scheduler").metrics_url.unwrap()).await;
    for (metric, label) in [
        ("rhyzome_jobs_total", "kind=\"instance.reboot\""),
        ("rhyzome_placement_refusals_total", "reason=\"memory\""),
        ("rhyzome_jobs_waiting", "reason=\"capacity\""),
        ("rhyzome_invariant_violations", "invariant=\"1\""),
        ("rhyzome_invariant_violations", "invariant=\"13\""),
    ] {
        let found = scheduler
            .lines()
            .any(|line| line.starts_with(metric) && line.contains(label));
        assert!(found, "{metric} with {label}");
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
