//! Who may do what.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use crate::render::{QUICKSTART, all, chart, documents, find, kind, kustomization, name, pods, printed, read};

const WATCH: &[&str] = &["watchNamespaces={a,b}", "clusterID=c1", "quickstart.postgres.enabled=true"];

/// `(apiGroup, resource, verb, names)` of every rule.
fn rights(role: &Value) -> BTreeSet<(String, String, String, String)> {
    let list = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().map(|item| item.as_str().expect("a string").to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        let names = list(rule, "resourceNames").join(",");
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for verb in list(rule, "verbs") {
                    rights.insert((group.clone(), resource.clone(), verb, names.clone()));
                }
            }
        }
    }
    rights
}

fn roles(objects: &[Value]) -> Vec<&Value> {
    objects.iter().filter(|object| matches!(kind(object), "Role" | "ClusterRole")).collect()
}

#[test]
fn a_role_that_is_not_the_codes_is_found() {
    let printed = printed("rbac");
    for copy in ["charts/pollux/files/rbac.yaml", "config/rbac/rbac.yaml"] {
        assert_eq!(printed, read(copy), "{copy} is not what the code says: make generate");
    }
    let table = documents(&printed);
    let chart = chart(&["quickstart.postgres.enabled=true"]);
    let kustomize = kustomization("config/default");
    for (wanted, named, in_chart) in [
        ("ClusterRole", "pollux-controller", "pollux-controller-pollux-system"),
        ("ClusterRole", "pollux-controller-cluster", "pollux-controller-pollux-system-cluster"),
        ("Role", "pollux-controller", "pollux-controller"),
    ] {
        let rights_of_code = rights(find(&table, wanted, named));
        assert!(!rights_of_code.is_empty(), "{wanted} {named} has no rule");
        assert_eq!(rights_of_code, rights(find(&chart, wanted, in_chart)), "{wanted} {named} of the chart");
        assert_eq!(rights_of_code, rights(find(&kustomize, wanted, named)), "{wanted} {named} of config/rbac");
    }
    assert_eq!(roles(&chart).len(), 3);
    assert_eq!(roles(&kustomize).len(), 3);
}

#[test]
fn the_operator_may_not_read_secrets_or_act_inside_of_pods() {
    for role in documents(&printed("rbac")) {
        for (group, resource, verb, _) in rights(&role) {
            let at = format!("{} {}: {verb} {resource}.{group}", kind(&role), name(&role));
            assert!(![&group, &resource, &verb].iter().any(|part| part.contains('*')), "wildcard: {at}");
            assert_ne!(resource, "secrets", "{at}");
            assert!(!resource.starts_with("pods/"), "{at}");
            assert!(resource != "pods" || ["get", "list", "watch"].contains(&verb.as_str()), "{at}");
            assert!(!["escalate", "bind", "impersonate"].contains(&verb.as_str()), "{at}");
            assert_ne!(resource, "customresourcedefinitions", "{at}");
            assert_ne!(group, "rbac.authorization.k8s.io", "{at}");
        }
    }
}

#[test]
fn a_list_of_namespaces_leaves_nothing_that_spans_the_cluster() {
    let objects = chart(WATCH);
    for wanted in ["ClusterRole", "ClusterRoleBinding"] {
        assert!(all(&objects, wanted).is_empty(), "{wanted} in spite of watchNamespaces");
    }
    let table = documents(&printed("rbac"));
    let wanted = rights(find(&table, "ClusterRole", "pollux-controller"));
    for namespace in ["a", "b"] {
        let role = objects
            .iter()
            .find(|object| kind(object) == "Role" && object["metadata"]["namespace"] == namespace)
            .unwrap_or_else(|| panic!("no Role in {namespace}"));
        assert_eq!(wanted, rights(role));
        assert!(objects.iter().any(|object| {
            kind(object) == "RoleBinding"
                && object["metadata"]["namespace"] == namespace
                && object["roleRef"]["name"] == role["metadata"]["name"]
                && object["subjects"][0]["name"] == "pollux-controller"
                && object["subjects"][0]["namespace"] == "pollux-system"
        }));
    }
}

#[test]
fn the_grant_job_may_touch_one_secret_by_name_in_the_named_namespaces() {
    let objects = chart(QUICKSTART);
    let of_grant: Vec<_> = roles(&objects).into_iter().filter(|role| name(role).starts_with("pollux-grant")).collect();
    let mut namespaces = BTreeSet::new();
    for role in of_grant {
        if kind(role) == "ClusterRole" {
            let uid = ("".to_owned(), "namespaces".to_owned(), "get".to_owned(), "kube-system".to_owned());
            assert_eq!(BTreeSet::from([uid]), rights(role));
            continue;
        }
        namespaces.insert(role["metadata"]["namespace"].as_str().expect("a namespace").to_owned());
        let secret = |verb: &str| ("".to_owned(), "secrets".to_owned(), verb.to_owned(), "pollux-lease".to_owned());
        assert_eq!(BTreeSet::from([secret("get"), secret("create"), secret("patch")]), rights(role));
    }
    assert_eq!(namespaces, BTreeSet::from(["bots".to_owned(), "more-bots".to_owned()]));
}

#[test]
fn the_rights_of_the_grant_job_end_with_it() {
    for object in chart(QUICKSTART) {
        if !name(&object).starts_with("pollux-grant") {
            continue;
        }
        let at = format!("{} {}", kind(&object), name(&object));
        let annotation = |key: &str| object["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned();
        assert_eq!(annotation("helm.sh/hook"), "post-install,post-upgrade", "{at}");
        assert_eq!(annotation("helm.sh/hook-delete-policy"), "before-hook-creation,hook-succeeded", "{at}");
        let weight: i32 = annotation("helm.sh/hook-weight").parse().expect("a weight");
        assert_eq!(weight < 0, kind(&object) != "Job", "{at}: the Job is made after what it needs");
    }
}

#[test]
fn every_binding_binds_what_is_there() {
    for objects in [chart(QUICKSTART), chart(WATCH), kustomization("config/default")] {
        let bindings = objects.iter().filter(|object| kind(object).ends_with("RoleBinding"));
        for binding in bindings {
            let role = &binding["roleRef"];
            let namespace = if role["kind"] == "Role" { &binding["metadata"]["namespace"] } else { &Value::Null };
            assert!(
                objects.iter().any(|object| {
                    object["kind"] == role["kind"]
                        && object["metadata"]["name"] == role["name"]
                        && &object["metadata"]["namespace"] == namespace
                }),
                "{} {} binds {role}, which is not there",
                kind(binding),
                name(binding)
            );
            let subject = &binding["subjects"][0];
            assert!(
                objects.iter().any(|object| {
                    kind(object) == "ServiceAccount"
                        && object["metadata"]["name"] == subject["name"]
                        && object["metadata"]["namespace"] == subject["namespace"]
                }),
                "{} {} is for {subject}, which is not there",
                kind(binding),
                name(binding)
            );
        }
    }
}

/// Pod Security "restricted", and beyond it: a read-only root and bounded memory.
fn assert_restricted(at: &str, pod: &PodSpec) {
    assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none(), "{at}");
    let security = pod.security_context.as_ref().unwrap_or_else(|| panic!("{at}: no securityContext"));
    assert_eq!(security.run_as_non_root, Some(true), "{at}");
    assert_ne!(security.run_as_user, Some(0), "{at}");
    assert_eq!(security.seccomp_profile.as_ref().map(|profile| profile.type_.as_str()), Some("RuntimeDefault"), "{at}");
    for volume in pod.volumes.iter().flatten() {
        assert!(
            volume.secret.is_some() || volume.config_map.is_some() || volume.empty_dir.is_some(),
            "{at}: volume {}",
            volume.name
        );
    }
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        assert_restricted_container(at, container);
    }
}

fn assert_restricted_container(at: &str, container: &Container) {
    let at = format!("{at}, container {}", container.name);
    let security = container.security_context.as_ref().unwrap_or_else(|| panic!("{at}: no securityContext"));
    assert_eq!(security.allow_privilege_escalation, Some(false), "{at}");
    assert_eq!(security.read_only_root_filesystem, Some(true), "{at}");
    assert!(security.privileged.is_none() && security.run_as_user.is_none(), "{at}");
    let capabilities = security.capabilities.as_ref().unwrap_or_else(|| panic!("{at}: no capabilities"));
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]), "{at}");
    assert!(capabilities.add.is_none(), "{at}");
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    assert!(limits.is_some_and(|limits| limits.contains_key("memory")), "{at}: no limit of memory");
}

#[test]
fn every_pod_is_restricted() {
    for (objects, expected) in [(chart(QUICKSTART), 3), (chart(WATCH), 2), (kustomization("config/default"), 1)] {
        let pods = pods(&objects);
        assert_eq!(pods.len(), expected);
        for (at, pod) in pods {
            assert_restricted(&at, &pod);
        }
    }
}

#[test]
fn secrets_reach_pods_as_files_only() {
    for objects in [chart(QUICKSTART), kustomization("config/default")] {
        for (at, pod) in pods(&objects) {
            for container in &pod.containers {
                assert!(container.env_from.is_none(), "{at}");
                for variable in container.env.iter().flatten() {
                    let from = variable.value_from.as_ref();
                    assert!(from.is_none_or(|from| from.secret_key_ref.is_none()), "{at}: {}", variable.name);
                }
            }
        }
    }
}
