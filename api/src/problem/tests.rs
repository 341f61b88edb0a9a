//! Problems as they are answered.

use super::{Code, Problem};
use rhyzome_model::problem::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;

#[test]
fn codes_are_distinct_and_upper_snake() {
    let texts: BTreeSet<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
    assert_eq!(texts.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(
            code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
            "{code:?}"
        );
        assert!((400..600).contains(&code.status()), "{code:?}");
    }
}

#[test]
fn the_document_has_every_member() {
    let problem = Problem::validation(vec![
        FieldError::new("/spec/cidr", "INVALID_VALUE", "no"),
        FieldError::new("/name", "INVALID_VALUE", "no"),
    ]);
    let document: Value = serde_json::from_slice(&problem.document("/v1/networks", "r-1")).unwrap();
    for member in [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "errors",
        "retryable",
        "request_id",
    ] {
        assert!(document.get(member).is_some(), "{member}");
    }
    assert_eq!(document["type"], "urn:rhyzome:problem:validation-failed");
    assert_eq!(document["errors"].as_array().unwrap().len(), 2);
    assert_eq!(document["status"], 422);
}

#[test]
fn a_500_says_nothing_of_the_inside() {
    let problem = Problem::internal("database", &"password=hunter2 at 10.0.0.1");
    let document = String::from_utf8(problem.document("/", "r-1")).unwrap();
    assert!(!document.contains("hunter2") && !document.contains("10.0.0.1"));
    assert!(document.contains("\"request_id\":\"r-1\""));
}
