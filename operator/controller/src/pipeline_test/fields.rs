//! The way of a field from the manifest: to running agents, or into new pods.

use super::*;

fn setting(spec: Value) -> Value {
    planned(&running(spec)).setting.unwrap().json
}

#[test]
fn hot_fields_are_written_for_running_agents_and_make_no_pods() {
    let before = running(json!({}));
    let changed = json!({
        "lease": {"durationSeconds": 7, "failover": "Fast", "fast": {"fenceMilliseconds": 900}},
        "polling": {
            "delivery": "Settled", "settleSeconds": 5, "maxBatch": 3, "maxUnsettled": 4, "deafAfterSeconds": 90,
            "pendingUpdates": "ColdStart", "longPollTimeoutSeconds": 9,
        },
        "handover": {"quietSeconds": 6, "ordering": "Fast"},
    });
    let observed = Observed { bot: bot(changed), ..before };
    let plan = planned(&observed);
    assert_eq!((&plan.rollout, plan.store), (&RolloutDecision::Keep, false));
    let deployment = build(&observed, &plan).deployment.unwrap();
    assert!(
        crate::same::is_so(&deployment, &serde_json::to_value(&observed.deployment).unwrap()),
        "nothing is written"
    );
    let expected = json!({
        "leaseDurationSeconds": 7, "failover": "Fast", "fast": {"fenceMilliseconds": 900, "sessionTimeoutMilliseconds": 3000},
        "delivery": "Settled", "settleSeconds": 5, "maxBatch": 3, "maxUnsettled": 4, "deafAfterSeconds": 90,
        "pendingUpdates": "ColdStart", "longPollTimeoutSeconds": 9, "quietSeconds": 6, "ordering": "Fast",
    });
    assert_eq!(plan.setting.unwrap().json, expected);
}

/// What agents of an earlier release do with a default is what they would do without it.
#[test]
fn hot_fields_that_nobody_set_are_the_defaults() {
    let expected = json!({
        "leaseDurationSeconds": 10, "failover": "Ttl", "fast": {"fenceMilliseconds": 1000, "sessionTimeoutMilliseconds": 3000},
        "delivery": "Transparent", "settleSeconds": 3, "maxBatch": 20, "maxUnsettled": null, "deafAfterSeconds": 60,
        "pendingUpdates": "Keep", "longPollTimeoutSeconds": 30, "quietSeconds": null, "ordering": "Strict",
    });
    assert_eq!(setting(json!({})), expected);
}
