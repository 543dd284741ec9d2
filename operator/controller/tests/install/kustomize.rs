//! The kustomize bases, and what README and samples show.

use serde_json::Value;

use crate::render::{QUICKSTART, chart, check_fields, find, kustomization, read, within};

/// What an installation chooses; the rest of the pod must be the same whoever installs it.
fn without_choices(deployment: &Value) -> Value {
    let mut spec = deployment["spec"].clone();
    spec["selector"] = Value::Null;
    spec["template"]["metadata"] = Value::Null;
    let pod = &mut spec["template"]["spec"];
    pod["topologySpreadConstraints"][0]["labelSelector"] = Value::Null;
    pod["volumes"][0]["secret"]["secretName"] = Value::Null;
    spec
}

#[test]
fn kustomize_and_the_chart_run_the_same_controller() {
    let kustomize = kustomization("config/default");
    check_fields(&kustomize);
    let from_chart = chart(QUICKSTART);
    assert_eq!(
        without_choices(find(&kustomize, "Deployment", "pollux-controller")),
        without_choices(find(&from_chart, "Deployment", "pollux-controller")),
    );
    let budget = |objects: &[Value]| {
        let mut spec = find(objects, "PodDisruptionBudget", "pollux-controller")["spec"].clone();
        spec["selector"] = Value::Null;
        spec
    };
    assert_eq!(budget(&kustomize), budget(&from_chart));
}

#[test]
fn an_object_outside_of_the_namespace_is_found() {
    for object in kustomization("config/default") {
        let namespace = object["metadata"]["namespace"].as_str();
        let of_the_cluster = ["Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"];
        let expected =
            if of_the_cluster.contains(&object["kind"].as_str().expect("kind")) { None } else { Some("pollux-system") };
        assert_eq!(namespace, expected, "{} {}", object["kind"], object["metadata"]["name"]);
    }
}

#[test]
fn a_sample_that_the_api_would_refuse_is_found() {
    let samples = kustomization("config/samples");
    assert_eq!(samples.len(), 2);
    for sample in samples {
        // Values are refused by the types, fields that do not exist by the comparison.
        let bot: pollux_api::TelegramBot = serde_json::from_value(sample.clone()).expect("a TelegramBot");
        let understood = serde_json::to_value(&bot).expect("serializable");
        assert!(within(&sample["spec"], &understood["spec"]), "{sample} is understood as {understood}");
    }
}

#[test]
fn the_smallest_manifest_has_seven_lines_and_is_the_readmes() {
    let sample = read("config/samples/telegrambot_minimal.yaml");
    assert_eq!(sample.lines().count(), 7, "{sample}");
    assert!(read("README.md").contains(sample.trim_end()), "README.md shows another manifest");
}
