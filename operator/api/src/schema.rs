//! Schemas of Kubernetes' own types, as far as a bot needs them.
//!
//! They are written by hand: the derived ones describe every field of every release, say `nullable` everywhere (which hides
//! the types from `kubectl explain`), and refuse `cpu: 1` because they call a quantity a string.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

fn key_selector(what: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("A key of a {what}."),
        "required": ["key", "name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "description": format!("Name of the {what}.")},
            "key": {"type": "string", "minLength": 1, "maxLength": 253, "description": "The key."},
            "optional": {"type": "boolean", "description": "Start the container even when it is missing."},
        },
        "x-kubernetes-map-type": "atomic",
    })
}

pub(crate) fn env(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 256, "description": "Name of the variable."},
                "value": {"type": "string", "maxLength": 131072, "description": "Its value. `$(NAME)` refers to a variable that was set before it."},
                "valueFrom": {
                    "type": "object",
                    "description": "Where the value comes from, instead of `value`.",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        "configMapKeyRef": key_selector("ConfigMap"),
                        "secretKeyRef": key_selector("Secret"),
                        "fieldRef": {
                            "type": "object",
                            "description": "A field of the pod.",
                            "required": ["fieldPath"],
                            "properties": {
                                "apiVersion": {"type": "string", "description": "Version that the path is written for; v1 unless set."},
                                "fieldPath": {"type": "string", "description": "Path of the field, such as `metadata.name`."},
                            },
                            "x-kubernetes-map-type": "atomic",
                        },
                        "resourceFieldRef": {
                            "type": "object",
                            "description": "A request or limit of a container.",
                            "required": ["resource"],
                            "properties": {
                                "containerName": {"type": "string", "description": "The container; this one unless set."},
                                "resource": {"type": "string", "description": "The resource, such as `limits.memory`."},
                                "divisor": quantity("Unit of the value."),
                            },
                            "x-kubernetes-map-type": "atomic",
                        },
                    },
                },
            },
        },
    })
}

pub(crate) fn env_from(_: &mut SchemaGenerator) -> Schema {
    let source = |what: &str| {
        json!({
            "type": "object",
            "description": format!("A {what} whose keys become variables."),
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 253, "description": format!("Name of the {what}.")},
                "optional": {"type": "boolean", "description": "Start the container even when it is missing."},
            },
        })
    };
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "prefix": {"type": "string", "description": "Put before every name."},
                "configMapRef": source("ConfigMap"),
                "secretRef": source("Secret"),
            },
        },
    })
}

fn quantity(description: &str) -> Value {
    json!({
        "description": description,
        "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        "x-kubernetes-int-or-string": true,
    })
}

pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let map = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "maxProperties": 32,
            "additionalProperties": quantity("An amount, such as `100m` or `64Mi`."),
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "requests": map("What the scheduler reserves."),
            "limits": map("What the container may use at most."),
        },
    })
}

pub(crate) fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Name of the Secret."}},
        },
    })
}

pub(crate) fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

pub(crate) fn strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 128,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string"},
    })
}

pub(crate) fn variables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    })
}

pub(crate) fn methods(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 64},
    })
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What it is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is so."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the resource that this was found for."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When `status` changed last."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in one word."},
                "message": {"type": "string", "maxLength": 32768, "description": "Why, and how to mend it."},
            },
        },
    })
}
