//! Runs helm and kubectl and reads what they print.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The namespace that everything is rendered for.
pub(crate) const NAMESPACE: &str = "pollux-system";

/// What makes the chart render everything it has.
pub(crate) const QUICKSTART: &[&str] = &["quickstart.postgres.enabled=true", "botNamespaces={bots,more-bots}"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The controller that cargo built for this test.
pub(crate) fn controller(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollux-controller"));
    command.args(args).env_clear();
    command.output().expect("pollux-controller starts")
}

/// What the controller prints as a file that is committed.
pub(crate) fn printed(subcommand: &str) -> String {
    let output = controller(&[subcommand]);
    assert!(output.status.success(), "pollux-controller {subcommand}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A chart rendered with `--set` of each value, or Helm's complaint.
pub(crate) fn helm(chart: &Path, values: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = Command::new(tool("helm"));
    // The server's version is not asked for here, and what is built from Go modules believes in an old one.
    command.args(["template", "pollux", "--namespace", NAMESPACE, "--kube-version", "1.33.0"]).arg(chart);
    for value in values {
        command.args(["--set", value]);
    }
    run(&mut command).map(|text| documents(&text))
}

/// The chart of this repository, or why it could not be rendered.
pub(crate) fn try_chart(values: &[&str]) -> Result<Vec<Value>, String> {
    helm(&root().join("charts/pollux"), values)
}

/// The chart of this repository.
pub(crate) fn chart(values: &[&str]) -> Vec<Value> {
    try_chart(values).unwrap_or_else(|error| panic!("helm template with {values:?}: {error}"))
}

/// A kustomization of this repository.
pub(crate) fn kustomization(path: &str) -> Vec<Value> {
    let mut command = Command::new(tool("kubectl"));
    command.arg("kustomize").arg(root().join(path));
    documents(&run(&mut command).unwrap_or_else(|error| panic!("kubectl kustomize {path}: {error}")))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("UTF-8"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn tool(name: &str) -> PathBuf {
    if let Some(path) = env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("POLLUX_CACHE")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/pollux"), PathBuf::from);
    let versions = fs::read_dir(cache.join("bin")).into_iter().flatten().flatten().map(|entry| entry.path());
    env::split_paths(&path)
        .chain(versions)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("there is no {name}: set {}, or have it built by `make cluster`", name.to_uppercase())
        })
}

/// The objects of a YAML stream.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().expect("kind")
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("metadata.name")
}

/// The only object of this kind and name.
pub(crate) fn find<'a>(objects: &'a [Value], wanted: &str, named: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| kind(object) == wanted && name(object) == named);
    let object = found.next().unwrap_or_else(|| panic!("no {wanted} {named}"));
    assert!(found.next().is_none(), "two of {wanted} {named}");
    object
}

/// All objects of this kind.
pub(crate) fn all<'a>(objects: &'a [Value], wanted: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| kind(object) == wanted).collect()
}

/// An object as the type that it claims to be. A field that the type does not know is an error: it would be dropped.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let at = format!("{} {}", kind(object), name(object));
    let parsed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{at}: {error}"));
    known(&at, object, &serde_json::to_value(&parsed).expect("serializable"));
    parsed
}

/// Whether everything that `written` says is in `understood`, with the same value; numbers by value (`1` is `1.0`).
pub(crate) fn within(written: &Value, understood: &Value) -> bool {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            written.iter().all(|(key, value)| understood.get(key).is_some_and(|understood| within(value, understood)))
        }
        (Value::Array(written), Value::Array(understood)) => {
            written.len() == understood.len() && written.iter().zip(understood).all(|(a, b)| within(a, b))
        }
        (Value::Number(written), Value::Number(understood)) => written.as_f64() == understood.as_f64(),
        _ => written == understood,
    }
}

fn known(at: &str, written: &Value, understood: &Value) {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (key, value) in written {
                // Empty lists and maps say nothing, and are left out again.
                if value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(|map| map.is_empty()) {
                    continue;
                }
                let Some(understood) = understood.get(key) else { panic!("{at}: there is no field {key}") };
                known(&format!("{at}.{key}"), value, understood);
            }
        }
        (Value::Array(written), Value::Array(understood)) => {
            assert_eq!(written.len(), understood.len(), "{at}");
            for (index, (written, understood)) in written.iter().zip(understood).enumerate() {
                known(&format!("{at}[{index}]"), written, understood);
            }
        }
        _ => {}
    }
}

/// Every object must be of a kind that is known here, and have no field that its type has not.
pub(crate) fn check_fields(objects: &[Value]) {
    for object in objects {
        match kind(object) {
            "ClusterRole" => drop(typed::<ClusterRole>(object)),
            "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(object)),
            "ConfigMap" => drop(typed::<ConfigMap>(object)),
            "CustomResourceDefinition" => drop(typed::<CustomResourceDefinition>(object)),
            "Deployment" => drop(typed::<Deployment>(object)),
            "Job" => drop(typed::<Job>(object)),
            "Namespace" => drop(typed::<Namespace>(object)),
            "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(object)),
            "Role" => drop(typed::<Role>(object)),
            "RoleBinding" => drop(typed::<RoleBinding>(object)),
            "Secret" => drop(typed::<Secret>(object)),
            "Service" => drop(typed::<Service>(object)),
            "ServiceAccount" => drop(typed::<ServiceAccount>(object)),
            "StatefulSet" => drop(typed::<StatefulSet>(object)),
            other => panic!("{other} {}: no test knows what it may be", name(object)),
        }
    }
}

/// The pods that these objects make, with their names.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    objects
        .iter()
        .filter_map(|object| {
            let spec = object.pointer("/spec/template/spec")?;
            let at = format!("{} {}", kind(object), name(object));
            Some((at, serde_json::from_value(spec.clone()).expect("a pod")))
        })
        .collect()
}

/// Arguments of the only container of a pod.
pub(crate) fn arguments(objects: &[Value], wanted: &str, named: &str) -> Vec<String> {
    let container = find(objects, wanted, named).pointer("/spec/template/spec/containers/0/args").expect("args");
    serde_json::from_value(container.clone()).expect("strings")
}
