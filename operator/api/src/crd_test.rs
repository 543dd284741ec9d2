//! The committed CRD is what the types say, and what API servers and `kubectl explain` can use.

use serde_json::Value;

use crate::manifest;
use crate::spec::TelegramBot;

const COMMITTED: &str = include_str!("../../../crds/pollux.dev_telegrambots.yaml");

fn schema() -> Value {
    let crd = serde_json::to_value(manifest::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls `visit` with the path and the schema of every property below `schema`.
fn properties(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, property);
        properties(&path, property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            properties(&format!("{path}[]"), &schema[inner], visit);
        }
    }
}

#[test]
fn committed_crd_is_what_the_types_say() {
    assert!(manifest::crd_yaml() == COMMITTED, "crds/pollux.dev_telegrambots.yaml is stale: run `make generate`");
}

#[test]
fn every_field_is_explained() {
    let (mut seen, mut silent) = (0, Vec::new());
    properties("", &schema(), &mut |path, property| {
        seen += 1;
        if property["description"].as_str().is_none_or(str::is_empty) {
            silent.push(path.to_owned());
        }
    });
    assert!(seen > 80, "walked {seen} fields only");
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn no_field_allows_null_and_no_enum_lists_it() {
    let text = schema().to_string();
    assert!(!text.contains("nullable"), "kubectl explain shows no type for a nullable field");
    properties("", &schema(), &mut |path, property| {
        let words = property["enum"].as_array();
        assert!(words.is_none_or(|words| words.iter().all(Value::is_string)), "{path}: {words:?}");
    });
}

#[test]
fn every_list_says_how_server_side_apply_merges_it() {
    properties("", &schema(), &mut |path, property| {
        if property["type"] == "array" {
            assert!(property["x-kubernetes-list-type"].is_string(), "{path}");
            assert!(property["maxItems"].is_number(), "{path}: unbounded lists make CEL rules too costly");
        }
    });
}

#[test]
fn fits_into_the_annotation_of_a_plain_kubectl_apply() {
    let json = serde_json::to_string(&manifest::crd()).unwrap();
    assert!(json.len() < 131_072, "{} bytes, and the annotation may have 262144", json.len());
}

#[test]
fn seven_lines_are_enough() {
    let manifest = "apiVersion: pollux.dev/v1alpha1\nkind: TelegramBot\nmetadata: {name: echo, namespace: bots}\nspec:\n  image: ghcr.io/acme/echo-bot:1.0.0\n  tokenSecretRef: {name: echo-token}\n";
    let bot: TelegramBot = manifest::from_yaml(manifest).unwrap();
    let spec = &bot.spec;
    assert_eq!(
        (spec.replicas, spec.suspend, spec.min_ready_seconds, spec.progress_deadline_seconds),
        (1, false, 5, 600)
    );
    assert_eq!((spec.token_secret_ref.key.as_str(), spec.bot_api.url.as_str()), ("token", "https://api.telegram.org"));
    assert_eq!((spec.lease.database.as_str(), spec.lease.duration_seconds), ("default", 10));
    assert_eq!((spec.polling.long_poll_timeout_seconds, spec.handover.grace_period_seconds()), (30, 45));
}

#[test]
fn defaults_of_the_schema_are_the_defaults_of_the_types() {
    // The API server stores the schema's defaults; tools that read a manifest by themselves use the types'. They must agree.
    let schema = schema();
    let bot: TelegramBot = serde_json::from_value(
        serde_json::json!({"metadata": {}, "spec": {"image": "i", "tokenSecretRef": {"name": "t"}}}),
    )
    .unwrap();
    let bot = serde_json::to_value(&bot.spec).unwrap();
    let spec = schema["properties"]["spec"]["properties"].as_object().unwrap();
    let mut compared = 0;
    for (name, property) in spec {
        if let Some(default) = property.get("default") {
            assert_eq!(default, &bot[name], "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 13);
}
