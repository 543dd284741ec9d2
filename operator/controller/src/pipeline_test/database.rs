//! What the status says of a lease database that is not as it should be.

use pollux_lease::FullLogin;

use super::*;
use crate::grant::role_name;

/// As `pollux-lease` words them; its own tests hold it to "what; how to mend it".
const ERRORS: [&str; 11] = [
    "not a URI of a lease database: it does not begin with postgresql://",
    "the lease database at pg:5432 is away: connection refused; check that PostgreSQL runs there, and the host and port in the URI",
    "the lease database refuses: password authentication failed for user \"pollux\" (SQLSTATE 28P01); the role or its password in the Secret is wrong, or pg_hba.conf does not let it in",
    "TLS to the lease database: invalid peer certificate: UnknownIssuer; its certificate must be from an authority that is public or in the URI's sslrootcert=FILE",
    "the lease database at pg:5432 is away: it is read-only; the URI should name the primary",
    "the lease database at pg:5432 cannot be used: its schema speaks protocol 2 and this older version of Pollux only 1; upgrade it",
    "the lease database refuses: permission denied for database app (SQLSTATE 42501); the role lacks a right",
    "the lease database at pg:5432 cannot be used: it is PostgreSQL 13.14, and Pollux needs 14 or newer; upgrade it",
    "the lease database at pg:5432 cannot be used: fsync is off; set fsync = on and restart PostgreSQL",
    "the lease database at pg:5432 is away: sorry, too many clients already; raise the role's CONNECTION LIMIT or max_connections",
    "no answer within 5s",
];

fn message(status: &TelegramBotStatus, type_: ConditionType) -> String {
    status.condition(type_).unwrap().message.clone()
}

/// A pod whose bot has run for long, and whose agent is not ready.
fn waiting_pod(name: &str, revision: &str) -> k8s_openapi::api::core::v1::Pod {
    let mut waiting = pod(name, revision, false);
    let running = json!([{"name": "bot", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
    waiting.status.as_mut().unwrap().container_statuses = Some(serde_json::from_value(running).unwrap());
    waiting
}

fn full(names: &[&str]) -> Vec<FullLogin> {
    names.iter().map(|name| FullLogin { name: (*name).to_owned(), limit: 80 }).collect()
}

/// A rollout whose new pod's agent the database has never heard of.
fn surging(full_logins: Vec<FullLogin>) -> Observed {
    let mut observed = running(json!({}));
    let old = planned(&observed).revision.unwrap().name;
    observed.bot = bot(json!({"image": "two"}));
    let new = planned(&observed).revision.unwrap().name;
    assert_ne!(old, new);
    observed.pods.push(waiting_pod("echo-new", &new));
    observed.full_logins = full_logins;
    observed
}

#[test]
fn whatever_is_wrong_with_the_database_is_told_whole_and_without_other_advice() {
    for error in ERRORS {
        let mut observed = running(json!({}));
        observed.lease = Seen::Unreachable { error: error.to_owned() };
        observed.bot = bot(json!({"image": "two"}));
        let told = told(&observed);
        assert_eq!(reason(&told, ConditionType::LeaderElected), ("Unknown".into(), "DatabaseUnreachable".into()));
        assert_eq!(reason(&told, ConditionType::Available), ("Unknown".into(), "DatabaseUnreachable".into()));
        assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "WaitingForDatabase".into()));
        let elected = message(&told, ConditionType::LeaderElected);
        let said = format!(
            "the operator cannot use the lease database \"default\" (Secret in leaseDatabases): {error}; pods lead until their leases end"
        );
        assert_eq!(elected, said);
        assert!(message(&told, ConditionType::Progressing).contains(error), "{error}");
    }
}

#[test]
fn connection_limit_that_is_reached_is_a_condition_with_the_way_out() {
    let own = role_name("c-1", "bots");
    let told = told(&surging(full(&["pollux_other_0123abcd", &own])));
    assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "ConnectionLimit".into()));
    let said = message(&told, ConditionType::Progressing);
    for part in ["echo-new", &format!("the role {own} has all the 80 sessions"), "grant --connection-limit"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The old pod serves on.
    assert_eq!(reason(&told, ConditionType::Available), ("True".into(), "LeaderPolling".into()));
    assert!(told.message.contains("CONNECTION LIMIT"), "{}", told.message);
}

#[test]
fn connection_limit_of_a_role_that_was_made_by_hand_counts_and_that_of_another_namespace_does_not() {
    let by_hand = told(&surging(full(&["pollux_other_0123abcd", "bots_agents"])));
    assert_eq!(reason(&by_hand, ConditionType::Progressing), ("False".into(), "ConnectionLimit".into()));
    assert!(message(&by_hand, ConditionType::Progressing).contains("the role bots_agents has"));
    for others in [full(&["pollux_other_0123abcd"]), full(&[])] {
        let told = told(&surging(others));
        assert_eq!(reason(&told, ConditionType::Progressing), ("False".into(), "PodNotReady".into()));
        assert!(message(&told, ConditionType::Progressing).contains("check the URI in its Secret"));
    }
}

#[test]
fn ready_pod_that_has_lost_its_session_is_told_with_the_way_out() {
    let mut observed = running(json!({}));
    observed.lease = Seen::Bot(None);
    observed.full_logins = full(&[&role_name("c-1", "bots")]);
    let told = told(&observed);
    assert_eq!(reason(&told, ConditionType::LeaderElected), ("False".into(), "NoCandidate".into()));
    let said = message(&told, ConditionType::LeaderElected);
    assert!(said.contains("all the 80 sessions") && said.contains("grant --connection-limit"), "{said}");
}
