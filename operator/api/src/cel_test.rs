//! Every rule of the schema, in process: what it refuses, what it allows, and that its message says how to mend it.

use kube_cel::Validator;
use serde_json::{Value, json};

use crate::manifest;

fn schema() -> Value {
    let crd = serde_json::to_value(manifest::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn bot(name: &str, patch: Value) -> Value {
    let mut spec = json!({"image": "ghcr.io/acme/echo:1", "tokenSecretRef": {"name": "echo-token"}});
    spec.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    let bot: crate::TelegramBot = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    serde_json::to_value(bot).unwrap()
}

fn messages(new: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(&schema(), new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.as_slice().iter().map(|e| e.message.clone()).collect(),
    }
}

#[track_caller]
fn allowed(patch: Value) {
    assert_eq!(messages(&bot("echo", patch), None), Vec::<String>::new());
}

#[track_caller]
fn refused(patch: Value, mend: &str) {
    let found = messages(&bot("echo", patch), None);
    assert!(found.len() == 1 && found[0].contains(mend), "{found:?}");
}

#[test]
fn smallest_manifest_is_allowed() {
    allowed(json!({}));
}

#[test]
fn name_that_leaves_no_room_for_pod_names() {
    assert_eq!(messages(&bot(&"a".repeat(40), json!({})), None), Vec::<String>::new());
    let found = messages(&bot(&"a".repeat(41), json!({})), None);
    assert!(found.len() == 1 && found[0].contains("choose a shorter one"), "{found:?}");
}

/// The operator would look into one database and the agents elect in another one: nobody would ever lead.
#[test]
fn database_without_the_secret_that_leads_there() {
    refused(json!({"lease": {"database": "eu"}}), "set lease.credentialsSecretRef");
    allowed(json!({"lease": {"database": "eu", "credentialsSecretRef": {"name": "pg-app"}}}));
}

/// PostgreSQL would end the session of a leader that still leads.
#[test]
fn a_session_that_ends_before_its_fence() {
    refused(json!({"lease": {"fast": {"fenceMilliseconds": 500}}}), "only with lease.failover: Fast");
    let fast = |fence: i32| json!({"lease": {"failover": "Fast", "fast": {"fenceMilliseconds": fence}}});
    refused(fast(2000), "at least twice fenceMilliseconds");
    allowed(fast(1500));
}

#[test]
fn database_changes_only_in_a_suspended_bot() {
    let at = |database: &str, suspend: bool| {
        let lease = json!({"database": database, "credentialsSecretRef": {"name": "pg-app"}});
        bot("echo", json!({"lease": lease, "suspend": suspend}))
    };
    for (old, new, ok) in [
        (at("a", false), at("a", false), true),
        (at("a", false), at("b", false), false),
        (at("a", false), at("b", true), false),
        (at("a", true), at("b", false), false),
        (at("a", true), at("b", true), true),
    ] {
        let found = messages(&new, Some(&old));
        assert_eq!(found.is_empty(), ok, "{found:?}");
        assert!(ok || found[0].contains("set spec.suspend to true"), "{found:?}");
    }
}

#[test]
fn rollout_that_could_never_succeed() {
    allowed(json!({"minReadySeconds": 599}));
    refused(json!({"minReadySeconds": 600}), "raise progressDeadlineSeconds or lower minReadySeconds");
}

#[test]
fn migration_that_would_run_the_bot() {
    allowed(json!({"migration": {"command": ["migrate"]}}));
    allowed(json!({"migration": {"args": ["migrate"]}}));
    for nothing in [json!({}), json!({"image": "migrations:2"}), json!({"command": []})] {
        refused(json!({"migration": nothing}), "set one of them");
    }
}

#[test]
fn drain_and_trial_longer_than_a_rollout_may_take() {
    allowed(json!({"handover": {"drainTimeoutSeconds": 544}}));
    let mend = "raise progressDeadlineSeconds, or lower one of the others";
    refused(json!({"handover": {"drainTimeoutSeconds": 545}}), mend);
    allowed(json!({"handover": {"drainTimeoutSeconds": 3600}, "progressDeadlineSeconds": 3656}));
    allowed(json!({"analysis": {"bakeSeconds": 554}}));
    refused(json!({"analysis": {"bakeSeconds": 555}}), mend);
}

#[test]
fn silence_that_no_drain_could_wait_for() {
    let handover = |quiet: i32, drain: i32| json!({"handover": {"quietSeconds": quiet, "drainTimeoutSeconds": drain}});
    allowed(handover(19, 20));
    refused(handover(20, 20), "lower quietSeconds or raise drainTimeoutSeconds");
    refused(json!({"handover": {"quietSeconds": 20}}), "lower quietSeconds");
    allowed(handover(0, 0));
}

#[test]
fn environment_that_would_lead_the_bot_past_the_gate() {
    for name in crate::names::pod::API_URL_ENV.into_iter().chain([crate::names::pod::TOKEN_FILE_ENV]) {
        refused(json!({"env": [{"name": name, "value": "x"}]}), "spec.botApi.url");
    }
    allowed(json!({"env": [{"name": "TELEGRAM_BOT_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}));
}

#[test]
fn variable_for_the_address_that_is_set_already() {
    allowed(json!({"agent": {"apiURLEnv": ["BOT_API", "API_BASE"]}, "env": [{"name": "OTHER", "value": "x"}]}));
    for name in crate::names::pod::API_URL_ENV.into_iter().chain([crate::names::pod::TOKEN_FILE_ENV]) {
        refused(json!({"agent": {"apiURLEnv": ["BOT_API", name]}}), "remove the name from agent.apiURLEnv");
    }
    refused(
        json!({"agent": {"apiURLEnv": ["BOT_API"]}, "env": [{"name": "BOT_API", "value": "x"}]}),
        "remove the name from agent.apiURLEnv or from env",
    );
}

#[test]
fn two_listeners_on_one_port() {
    allowed(json!({"agent": {"apiPort": 9464, "metricsPort": 8081}}));
    refused(json!({"agent": {"apiPort": 9464}}), "change one of them");
    refused(json!({"agent": {"metricsPort": 8081}}), "change one of them");
}

#[test]
fn proxy_with_a_password_that_everybody_could_read() {
    for url in ["http://proxy:3128", "http://10.0.0.1:8080/", "http://[::1]:3128"] {
        allowed(json!({"agent": {"proxyURL": url}}));
    }
    for url in
        ["", "proxy:3128", "socks5://proxy", "http://", "http://user:pw@proxy:3128", "http://proxy/path", "http://p?q"]
    {
        refused(json!({"agent": {"proxyURL": url}}), "without user and password");
    }
}

#[test]
fn variable_with_two_sources() {
    refused(
        json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        "remove one of them",
    );
}

#[test]
fn address_of_the_bot_api() {
    for url in
        ["https://api.telegram.org", "http://telegram-bot-api:8081", "https://[::1]:8443/prefix", "http://10.0.0.1/"]
    {
        allowed(json!({"botApi": {"url": url}}));
    }
    for url in [
        "",
        "api.telegram.org",
        "ftp://x",
        "https://",
        "https://user:pw@host",
        "https://host/?q",
        "https://host/#f",
        "https://ho st",
    ] {
        refused(json!({"botApi": {"url": url}}), "such as https://api.telegram.org");
    }
}

#[test]
fn own_authority_without_tls() {
    allowed(json!({"botApi": {"url": "https://bot-api", "caConfigMapRef": {"name": "ca"}}}));
    refused(json!({"botApi": {"url": "http://bot-api", "caConfigMapRef": {"name": "ca"}}}), "use https://");
}

#[test]
fn program_that_nobody_knows() {
    let process = |patch: Value| {
        let mut spec = json!({"polling": {"adapter": "Process"}});
        spec.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        spec
    };
    allowed(process(json!({"command": ["python", "bot.py"]})));
    for none in [json!({}), json!({"command": []}), json!({"command": [""]}), json!({"args": ["bot.py"]})] {
        refused(process(none), "set command to it");
    }
}

/// The gate sees no update of such a bot.
#[test]
fn program_with_settings_of_the_gate() {
    for polling in [
        json!({"adapter": "Process", "delivery": "Settled"}),
        json!({"adapter": "Process", "pendingUpdates": "ColdStart"}),
        json!({"adapter": "Process", "maxUnsettled": 5}),
    ] {
        refused(json!({"command": ["bot"], "polling": polling}), "remove polling.delivery");
    }
    for handover in [json!({"ordering": "Fast"}), json!({"quietSeconds": 3})] {
        refused(
            json!({"command": ["bot"], "polling": {"adapter": "Process"}, "handover": handover}),
            "remove handover.ordering",
        );
    }
}

#[test]
fn every_rule_is_tested_here() {
    // A rule that is added without a test is a rule that nobody has seen refuse anything.
    let rules = schema().to_string().matches("\"rule\":").count();
    assert_eq!(rules, 19, "a rule was added or removed: test it above, then change this number");
}
