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
    assert_eq!((&plan.rollout, plan.store.len()), (&RolloutDecision::Keep, 0));
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

/// The hook's copy of the agent runs the program; nothing else of the pods differs.
#[test]
fn a_program_is_run_by_the_copy_of_the_agent() {
    let pod = |adapter: &str| {
        let polling = json!({"adapter": adapter});
        let observed = fresh(json!({"command": ["python", "-u"], "args": ["bot.py"], "polling": polling}));
        build(&observed, &planned(&observed)).deployment.unwrap()["spec"]["template"]["spec"].clone()
    };
    let (mut proxy, process) = (pod("Proxy"), pod("Process"));
    let bot = &process["containers"][0];
    let supervised = ["/run/pollux/agent/pollux-agent", "supervise", "--", "python", "-u"];
    assert_eq!((&bot["command"], &bot["args"]), (&json!(supervised), &json!(["bot.py"])));
    proxy["containers"][0]["command"] = json!(supervised);
    let env = proxy["initContainers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "POLLUX_ADAPTER", "value": "process"}));
    for variable in env {
        if variable["name"] == "POLLUX_REVISION" {
            variable["value"] = process["initContainers"][0]["env"]
                .as_array()
                .unwrap()
                .iter()
                .find(|v| v["name"] == "POLLUX_REVISION")
                .unwrap()["value"]
                .clone();
        }
    }
    assert_eq!(proxy, process);
}

#[test]
fn ports_and_variables_of_the_agent_as_they_are_applied() {
    let observed = fresh(json!({
        "agent": {"apiURLEnv": ["BOT_API"], "apiPort": 18081, "metricsPort": 19464, "proxyURL": "http://proxy:3128"},
    }));
    let spec = build(&observed, &planned(&observed)).deployment.unwrap()["spec"]["template"]["spec"].clone();
    let (agent, bot) = (&spec["initContainers"][0], &spec["containers"][0]);
    let value = |container: &Value, name: &str| {
        let env = container["env"].as_array().unwrap();
        env.iter()
            .find(|variable| variable["name"] == name)
            .map(|variable| variable["value"].as_str().unwrap().to_owned())
    };
    for name in ["TELEGRAM_API_ROOT", "TELEGRAM_API_URL", "TELOXIDE_API_URL", "BOT_API"] {
        assert_eq!(value(bot, name).as_deref(), Some("http://127.0.0.1:18081"), "{name}");
    }
    assert_eq!(value(agent, "POLLUX_LISTEN").as_deref(), Some("127.0.0.1:18081"));
    assert_eq!(value(agent, "POLLUX_HEALTH_LISTEN").as_deref(), Some("0.0.0.0:19464"));
    assert_eq!(value(agent, "POLLUX_PROXY_URL").as_deref(), Some("http://proxy:3128"));
    for port in [
        &agent["ports"][0]["containerPort"],
        &agent["readinessProbe"]["httpGet"]["port"],
        &agent["livenessProbe"]["httpGet"]["port"],
    ] {
        assert_eq!(port, 19464);
    }
}
