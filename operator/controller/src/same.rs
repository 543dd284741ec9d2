//! Whether a live object already is what is wanted, so that nothing has to be written.
//!
//! Wanted is a subset of live: the API server adds defaults, other managers add their own fields, and both are none of our
//! business. It also drops what is empty and rewrites quantities (`0.5` is `500m`); those are equal.

use serde_json::Value;

use crate::merge::Kind;

/// Whether everything in `wanted`, an object of any kind, is so in `live`.
pub(crate) fn is_so(wanted: &Value, live: &Value) -> bool {
    within(Kind::Plain, "", wanted, live)
}

fn within(kind: Kind, field: &str, wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            let child = if key == "template" { Kind::Template } else { kind.child(key) };
            match live.get(key) {
                None => is_empty(value),
                Some(live) => match (value, live, kind.merge_key(key)) {
                    (Value::Array(wanted), Value::Array(live), Some(id)) => wanted
                        .iter()
                        .all(|item| live.iter().any(|l| l.get(id) == item.get(id) && within(child, key, item, l))),
                    _ => within(child, if is_quantity_map(key) { "quantity" } else { field }, value, live),
                },
            }
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| within(Kind::Plain, field, w, l))
        }
        _ if wanted == live => true,
        _ => field == "quantity" && quantity(wanted).is_some_and(|amount| Some(amount) == quantity(live)),
    }
}

/// Fields below which values are quantities.
fn is_quantity_map(key: &str) -> bool {
    matches!(key, "requests" | "limits" | "sizeLimit" | "divisor" | "overhead")
}

/// What `omitempty` leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A quantity in units of 10⁻⁹.
fn quantity(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => 10i128.pow(9),
        "k" => 10i128.pow(12),
        "M" => 10i128.pow(15),
        "G" => 10i128.pow(18),
        "T" => 10i128.pow(21),
        "P" => 10i128.pow(24),
        "E" => 10i128.pow(27),
        "Ki" => 10i128.pow(9) << 10,
        "Mi" => 10i128.pow(9) << 20,
        "Gi" => 10i128.pow(9) << 30,
        "Ti" => 10i128.pow(9) << 40,
        "Pi" => 10i128.pow(9) << 50,
        "Ei" => 10i128.pow(9) << 60,
        exponent => {
            let tens: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10i128.checked_pow(u32::try_from(tens.checked_add(9)?).ok()?)?
        }
    };
    let fraction = &fraction[..fraction.len().min(9)];
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    digits.checked_mul(scale)?.checked_div(10i128.pow(u32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_foreign_fields_are_no_difference() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"template": {"spec": {"containers": [{"name": "bot", "image": "i"}]}}}});
        let live = json!({
            "metadata": {"labels": {"a": "1", "theirs": "2"}, "uid": "x"},
            "spec": {"revisionHistoryLimit": 10, "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
                "spec": {"containers": [{"name": "injected"}, {"name": "bot", "image": "i", "terminationMessagePath": "/dev/x"}]},
            }},
        });
        assert!(is_so(&wanted, &live));
    }

    #[test]
    fn a_changed_value_is_a_difference() {
        let live = json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "bot", "image": "i", "args": ["a", "b"]}]}}}});
        for wanted in [
            json!({"spec": {"replicas": 1}}),
            json!({"spec": {"paused": true}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "bot", "image": "j"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "other"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "bot", "args": ["a"]}]}}}}),
        ] {
            assert!(!is_so(&wanted, &live), "{wanted}");
        }
    }

    #[test]
    fn what_the_api_server_drops_or_rewrites_is_no_difference() {
        let wanted = json!({"env": [{"name": "A", "value": ""}], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": 1}}, "readOnly": false});
        let live = json!({"env": [{"name": "A"}], "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "1"}}});
        assert!(is_so(&wanted, &live));
        assert!(!is_so(&json!({"resources": {"limits": {"cpu": "501m"}}}), &live));
        let exponents = json!({"resources": {"limits": {"cpu": "5e-1", "memory": "1073.741824E6"}}});
        assert!(is_so(&exponents, &live));
        assert!(!is_so(&json!({"resources": {"limits": {"memory": "1e9"}}}), &live));
    }

    #[test]
    fn zero_where_something_else_is_stored_is_a_difference() {
        assert!(!is_so(&json!({"replicas": 0}), &json!({"replicas": 1})));
    }
}
