//! The kind `image`: what it refuses, its sizes, its plan.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{expect, id, resolved, same_names, with};
use rhyzome_model::ids::{HostName, TenantId};
use rhyzome_model::job::Action;
use rhyzome_model::kinds::{ImageSpec, Kind, PlanError, ResolvedRef, Venue, kept_gib};
use rhyzome_model::step::{self, ImageFacts};
use serde_json::{Value, json};

const KIND: Kind = Kind::Image;

fn url(url: &str) -> Value {
    json!({"source": {"url": url}, "format": "qcow2"})
}

fn file(name: &str) -> Value {
    json!({"source": {"file": name}, "format": "raw"})
}

fn facts(size_bytes: u64, virtual_size_bytes: u64) -> ImageFacts {
    ImageFacts {
        sha256: "cd".repeat(32),
        size_bytes,
        virtual_size_bytes,
    }
}

#[test]
fn what_is_refused() {
    for good in [
        "https://example.org/a.qcow2",
        "HTTPS://example.org:8443",
        "http://10.0.0.1/a",
        "https://[::1]:80/a",
    ] {
        expect(KIND, &url(good), None, &[]);
    }
    for (bad, code) in [
        ("", "INVALID_URL"),
        ("example.org/a", "INVALID_URL"),
        ("https://", "INVALID_URL"),
        ("https:///a", "INVALID_URL"),
        ("https://:80/a", "INVALID_URL"),
        ("https://user:word@example.org/a", "INVALID_URL"),
        ("https://example.org/a b", "INVALID_URL"),
        ("ftp://example.org/a", "UNSUPPORTED_SCHEME"),
        ("file:///etc/passwd", "UNSUPPORTED_SCHEME"),
    ] {
        expect(KIND, &url(bad), None, &[("/source/url", code)]);
    }
    expect(
        KIND,
        &url(&format!("https://example.org/{}", "a".repeat(2048))),
        None,
        &[("/source/url", "INVALID_URL")],
    );
    expect(KIND, &file("alpine-3.20.qcow2"), None, &[]);
    for bad in [
        "",
        ".",
        "..",
        "../a",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "-rf",
        ".hidden",
        "a\nb",
        &"a".repeat(256),
    ] {
        expect(KIND, &file(bad), None, &[("/source/file", "INVALID_FILE_NAME")]);
    }
    let snapshot = json!({"source": {"snapshot": "s"}, "format": "raw"});
    expect(KIND, &snapshot, None, &[("/source/snapshot", "NOT_SUPPORTED")]);
    let sizes = json!({"source": {"file": "a"}, "format": "raw", "min_disk_gib": 0, "min_memory_mib": 4_000_000_000_u32});
    expect(
        KIND,
        &sizes,
        None,
        &[
            ("/min_disk_gib", "OUT_OF_RANGE"),
            ("/min_memory_mib", "OUT_OF_RANGE"),
        ],
    );
}

#[test]
fn what_can_be_changed() {
    let before = file("a");
    expect(
        KIND,
        &with(
            &with(&before, "/visibility", json!("public")),
            "/min_disk_gib",
            json!(3),
        ),
        Some(&before),
        &[],
    );
    expect(KIND, &file("b"), Some(&before), &[("/source", "IMMUTABLE")]);
    expect(
        KIND,
        &with(&before, "/format", json!("qcow2")),
        Some(&before),
        &[("/format", "IMMUTABLE")],
    );
    expect(
        KIND,
        &with(&before, "/sha256", json!("ab".repeat(32))),
        Some(&before),
        &[("/sha256", "IMMUTABLE")],
    );
}

#[test]
fn sizes() {
    let spec = |min: Option<u32>| ImageSpec {
        min_disk_gib: min,
        ..serde_json::from_value(file("a")).unwrap()
    };
    assert_eq!(spec(None).smallest_disk_gib(&facts(1, 1)), 1);
    assert_eq!(spec(None).smallest_disk_gib(&facts(1, 1 << 30)), 1);
    assert_eq!(spec(None).smallest_disk_gib(&facts(1, (1 << 30) + 1)), 2);
    assert_eq!(spec(Some(5)).smallest_disk_gib(&facts(1, 1)), 5);
    assert_eq!(
        (kept_gib(&facts(1, 9)), kept_gib(&facts((2 << 30) + 1, 9))),
        (1, 3)
    );
    assert_eq!(KIND.ops().demand(&file("a")).unwrap().disk_gib, 1);
}

#[test]
fn the_image_holds_itself_where_it_was_fetched_first() {
    let input = resolved(&file("a.raw"), None);
    let plan = KIND.ops().plan(Action::Create, &input).unwrap();
    let [step] = plan.as_slice() else {
        panic!("{plan:?}")
    };
    let step::Action::EnsureImage(ensure) = &step.forward else {
        panic!("{step:?}")
    };
    assert_eq!(
        (ensure.image, ensure.holder, &ensure.sha256),
        (id(1), id(1), &None)
    );
    let drop = step::DropShared {
        object: id(1),
        holder: id(1),
    };
    assert_eq!(step.undo, Some(step::Action::DropImage(drop.clone())));
    assert_eq!(KIND.ops().venue(Action::Create), Venue::Placed);
    same_names(KIND, Action::Create, &input);

    let mut held = resolved(&file("a.raw"), Some(&file("a.raw")));
    assert_eq!(KIND.ops().plan(Action::Delete, &held).unwrap(), []);
    held.host = Some(HostName::from("host-1"));
    let plan = KIND.ops().plan(Action::Delete, &held).unwrap();
    assert_eq!(plan, [step::Step::forward_only(step::Action::DropImage(drop))]);
    for action in [Action::Delete, Action::Update, Action::Repair] {
        same_names(KIND, action, &held);
    }
}

#[test]
fn a_repair_fetches_what_was_frozen() {
    let mut input = resolved(&file("a.raw"), Some(&file("a.raw")));
    input.host = Some(HostName::from("host-1"));
    let own = ResolvedRef {
        kind: KIND,
        tenant: TenantId::from("demo"),
        generation: 1,
        spec: file("a.raw"),
        image: Some(facts(1, 1)),
    };
    input.references.insert(id(1), own);
    let plan = KIND.ops().plan(Action::Repair, &input).unwrap();
    let step::Action::EnsureImage(ensure) = &plan[0].forward else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (ensure.sha256.as_deref(), &plan[0].undo),
        (Some("cd".repeat(32).as_str()), &None)
    );
}

#[test]
fn it_has_no_power() {
    let input = resolved(&file("a"), None);
    assert!(matches!(
        KIND.ops().plan(Action::Start, &input),
        Err(PlanError::NoSuchAction { .. })
    ));
}
