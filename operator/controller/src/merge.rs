//! `spec.podTemplate` merged over the generated template: a strategic merge patch, done here.
//!
//! Why not by the API server: the result is what is stored as a revision and applied again byte for byte, so it must exist
//! before anything is applied; and what a template may not override is judged on the result. The API server still has the
//! last word, by a dry run.
//!
//! Lists with a merge key are merged item by item, as kubectl does for built-in types; all others are replaced. `null`
//! removes a field, `$patch: delete` an item, `$patch: replace` replaces an object. Kubernetes' other directives are refused.

use serde_json::{Map, Value};

/// Why a patch cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.podTemplate{path}: {what}")]
pub(crate) struct MergeError {
    path: String,
    what: String,
}

/// What kind of object is being merged: it decides how its lists are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pod template.
    Template,
    /// A pod's spec.
    PodSpec,
    /// A container.
    Container,
    /// Anything else.
    Plain,
}

/// Merges `patch` over `base`.
pub(crate) fn merge(base: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), MergeError> {
    merge_object(Kind::Template, "", base, patch)
}

// === impl Kind ===

impl Kind {
    /// What an object is that lies in this field.
    pub(crate) fn child(self, field: &str) -> Self {
        match (self, field) {
            (Self::Template, "spec") => Self::PodSpec,
            (Self::PodSpec, "containers" | "initContainers") => Self::Container,
            _ => Self::Plain,
        }
    }

    /// The key by which the items of this list are told apart; `None`: the list is one value.
    pub(crate) fn merge_key(self, field: &str) -> Option<&'static str> {
        match (self, field) {
            (
                Self::PodSpec,
                "containers" | "initContainers" | "volumes" | "imagePullSecrets" | "schedulingGates" | "resourceClaims",
            ) => Some("name"),
            (Self::PodSpec, "hostAliases") => Some("ip"),
            (Self::PodSpec, "topologySpreadConstraints") => Some("topologyKey"),
            (Self::Container, "env") => Some("name"),
            (Self::Container, "ports") => Some("containerPort"),
            (Self::Container, "volumeMounts") => Some("mountPath"),
            (Self::Container, "volumeDevices") => Some("devicePath"),
            _ => None,
        }
    }
}

fn error(path: &str, what: impl Into<String>) -> MergeError {
    MergeError { path: path.to_owned(), what: what.into() }
}

fn merge_object(
    kind: Kind,
    path: &str,
    base: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), MergeError> {
    for (field, value) in patch {
        let path = format!("{path}.{field}");
        if field.starts_with('$') {
            return Err(error(
                &path,
                "this directive is not supported here: use null, `$patch: delete` on an item of a list, or `$patch: replace` on an object",
            ));
        }
        match (base.get_mut(field), value) {
            (_, Value::Null) => {
                base.remove(field);
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                if replaces(&path, new)? {
                    *old = without_directive(new);
                } else {
                    merge_object(kind.child(field), &path, old, new)?;
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => match kind.merge_key(field) {
                Some(key) => merge_list(kind.child(field), key, &path, old, new)?,
                None => old.clone_from(new),
            },
            (Some(old @ (Value::Object(_) | Value::Array(_))), _) => {
                let wanted = if old.is_object() { "an object" } else { "a list" };
                return Err(error(&path, format!("must be {wanted}")));
            }
            (_, new) => {
                let clean = clean(kind, field, &path, new)?;
                base.insert(field.clone(), clean);
            }
        }
    }
    Ok(())
}

fn merge_list(kind: Kind, key: &str, path: &str, base: &mut Vec<Value>, patch: &[Value]) -> Result<(), MergeError> {
    // Items of the patch are no partners of each other: a merge key may name two that differ in something else, as a port does
    // that is there for TCP and for UDP.
    let mut partners = base.len();
    for (index, item) in patch.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Object(item) = item else { return Err(error(&path, "must be an object")) };
        let Some(id) = item.get(key).filter(|id| !id.is_null()) else {
            return Err(error(&path, format!("needs `{key}`, which tells the items of this list apart")));
        };
        let place = base[..partners].iter().position(|old| old.get(key) == Some(id));
        match (item.get("$patch").map(Value::as_str), place) {
            (Some(Some("delete")), Some(place)) => {
                base.remove(place);
                partners -= 1;
            }
            (Some(Some("delete")), None) => {}
            (Some(Some("replace")), Some(place)) => base[place] = Value::Object(without_directive(item)),
            (Some(Some("replace")), None) => base.push(Value::Object(without_directive(item))),
            (Some(_), _) => return Err(error(&format!("{path}.$patch"), "must be `delete` or `replace`")),
            (None, Some(place)) => {
                let Value::Object(old) = &mut base[place] else { return Err(error(&path, "must be an object")) };
                merge_object(kind, &path, old, item)?;
            }
            (None, None) => {
                let mut new = Map::new();
                merge_object(kind, &path, &mut new, item)?;
                base.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

/// A value that is new to the base: without nulls and directives.
fn clean(kind: Kind, field: &str, path: &str, value: &Value) -> Result<Value, MergeError> {
    match value {
        Value::Object(object) => {
            let mut new = Map::new();
            if replaces(path, object)? {
                return Ok(Value::Object(without_directive(object)));
            }
            merge_object(kind.child(field), path, &mut new, object)?;
            Ok(Value::Object(new))
        }
        Value::Array(items) => match kind.merge_key(field) {
            Some(key) => {
                let mut new = Vec::new();
                merge_list(kind.child(field), key, path, &mut new, items)?;
                Ok(Value::Array(new))
            }
            None => Ok(value.clone()),
        },
        other => Ok(other.clone()),
    }
}

fn replaces(path: &str, object: &Map<String, Value>) -> Result<bool, MergeError> {
    match object.get("$patch").map(Value::as_str) {
        None => Ok(false),
        Some(Some("replace")) => Ok(true),
        Some(_) => {
            Err(error(&format!("{path}.$patch"), "must be `replace` on an object; to remove a field set it to null"))
        }
    }
}

fn without_directive(object: &Map<String, Value>) -> Map<String, Value> {
    object.iter().filter(|(key, _)| *key != "$patch").map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn merged(patch: Value) -> Value {
        let mut base = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {
                "containers": [{
                    "name": "bot", "image": "i", "args": ["x", "y"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            },
        });
        merge(base.as_object_mut().unwrap(), patch.as_object().unwrap()).unwrap();
        base
    }

    #[track_caller]
    fn refused(patch: Value) -> String {
        let mut base = json!({"spec": {"containers": [{"name": "bot"}], "nodeSelector": {"a": "b"}}});
        merge(base.as_object_mut().unwrap(), patch.as_object().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn containers_and_variables_are_merged_by_name() {
        let result = merged(json!({"spec": {"containers": [
            {"name": "bot", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
            {"name": "side", "image": "s"},
        ]}}));
        let containers = &result["spec"]["containers"];
        assert_eq!(
            containers[0]["env"],
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}])
        );
        assert_eq!(containers[0]["image"], "i");
        assert_eq!(containers[1], json!({"name": "side", "image": "s"}));
    }

    #[test]
    fn mounts_are_merged_by_path_and_volumes_by_name() {
        let result = merged(json!({"spec": {
            "containers": [{"name": "bot", "volumeMounts": [{"name": "w", "mountPath": "/w"}]}],
            "volumes": [{"name": "w", "emptyDir": {"medium": "Memory"}}],
        }}));
        assert_eq!(result["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().len(), 2);
        assert_eq!(
            result["spec"]["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {"medium": "Memory"}}])
        );
    }

    #[test]
    fn items_of_one_patch_that_share_a_merge_key_stay_two() {
        let ports = json!([{"containerPort": 5353, "protocol": "TCP"}, {"containerPort": 5353, "protocol": "UDP"}]);
        let spread = json!([
            {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ]);
        let result = merged(json!({"spec": {
            "containers": [{"name": "bot", "ports": ports, "env": [{"name": "A", "$patch": "delete"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}],
            "topologySpreadConstraints": spread,
        }}));
        let bot = &result["spec"]["containers"][0];
        assert_eq!((&bot["ports"], &result["spec"]["topologySpreadConstraints"]), (&ports, &spread));
        assert_eq!(
            bot["env"],
            json!([{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
            "after a removal too"
        );
    }

    #[test]
    fn plain_lists_are_replaced_and_plain_objects_merged() {
        let result = merged(
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "bot", "args": ["z"]}]}}),
        );
        assert_eq!(result["spec"]["containers"][0]["args"], json!(["z"]));
        assert_eq!(result["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    }

    #[test]
    fn null_removes_and_leaves_nothing_behind() {
        let result = merged(
            json!({"spec": {"securityContext": {"seccompProfile": null, "runAsUser": null}, "affinity": {"x": null}}}),
        );
        assert_eq!(result["spec"]["securityContext"], json!({"runAsNonRoot": true}));
        assert_eq!(result["spec"]["affinity"], json!({}));
    }

    #[test]
    fn directives_remove_and_replace() {
        let result = merged(json!({"spec": {
            "securityContext": {"$patch": "replace", "runAsUser": 5},
            "containers": [{"name": "bot", "env": [{"name": "A", "$patch": "delete"}]}],
            "volumes": [{"name": "gone", "$patch": "delete"}],
        }}));
        assert_eq!(result["spec"]["securityContext"], json!({"runAsUser": 5}));
        assert_eq!(result["spec"]["containers"][0]["env"], json!([{"name": "B", "value": "2"}]));
        assert_eq!(result["spec"]["volumes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn mistakes_are_named_by_their_path() {
        assert_eq!(
            refused(json!({"spec": {"containers": [{"image": "x"}]}})),
            "spec.podTemplate.spec.containers[0]: needs `name`, which tells the items of this list apart"
        );
        assert_eq!(refused(json!({"spec": {"containers": "bot"}})), "spec.podTemplate.spec.containers: must be a list");
        assert_eq!(
            refused(json!({"spec": {"nodeSelector": ["a"]}})),
            "spec.podTemplate.spec.nodeSelector: must be an object"
        );
        assert!(refused(json!({"spec": {"$retainKeys": ["a"]}})).contains("this directive is not supported"));
        assert!(
            refused(json!({"spec": {"containers": [{"name": "bot", "$patch": "merge"}]}}))
                .contains("must be `delete` or `replace`")
        );
    }
}
