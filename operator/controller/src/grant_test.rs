use super::*;

const OWNER: &str = "postgresql://pollux:owner@pg.db.svc:5432/leases?sslmode=verify-full";

fn owner() -> Database {
    Database::parse(OWNER).expect("a URI")
}

fn planned(existing: Option<&Secret>) -> Plan {
    plan(existing, |password| agents_database(&owner(), None, "pollux_bots_1", password))
}

fn made(uri: &str) -> Secret {
    secret("bots", "pollux-lease", uri)
}

fn uri(role: &str, password: &str) -> String {
    agents_database(&owner(), None, role, &Password(password.to_owned())).to_uri()
}

#[test]
fn a_secret_that_is_right_is_kept() {
    assert_eq!(planned(Some(&made(&uri("pollux_bots_1", "p")))), Plan::Keep(Password("p".to_owned())));
}

#[test]
fn a_moved_database_does_not_lock_the_agents_out() {
    let old = "postgresql://pollux_bots_1:p@old.db.svc:5432/leases";
    assert_eq!(planned(Some(&made(old))), Plan::Rewrite(Password("p".to_owned())));
}

#[test]
fn a_secret_without_a_usable_password_gets_a_new_one() {
    let cases = ["", "not a uri", "postgresql://pollux_bots_1@pg.db.svc/leases", &uri("pollux_other_2", "p")];
    for case in cases {
        assert!(matches!(planned(Some(&made(case))), Plan::Make(_)), "{case}");
    }
    let mut empty = made("");
    empty.data = None;
    assert!(matches!(planned(Some(&empty)), Plan::Make(_)));
    assert!(matches!(planned(None), Plan::Make(_)));
}

#[test]
fn a_secret_of_somebody_else_is_left_alone() {
    let mut theirs = made(&uri("pollux_bots_1", "p"));
    theirs.metadata.labels = None;
    assert_eq!(planned(Some(&theirs)), Plan::Refuse);
}

#[test]
fn the_owners_password_does_not_reach_the_agents() {
    let uri = uri("pollux_bots_1", "p");
    assert!(!uri.contains("owner"), "the owner's password");
    let database = Database::parse(&uri).expect("a URI");
    assert_eq!((database.user(), database.password()), ("pollux_bots_1", Some("p")));
    assert!(database.same_server(&owner()) && database.tls() == owner().tls());
}

#[test]
fn agents_can_be_sent_to_another_address() {
    let host = "pooler.example:6432".parse::<Host>().expect("a host");
    let database = agents_database(&owner(), Some(&host), "r", &Password("p".to_owned()));
    assert_eq!(database.address(), "pooler.example:6432");
    assert_eq!(database.dbname(), "leases");
}

#[test]
fn namespaces_with_a_common_beginning_do_not_share_a_role() {
    let long = "a".repeat(62);
    let names = [
        role_name("c1", "bots"),
        role_name("c2", "bots"),
        role_name("c1", "bots-1"),
        role_name("c1", &format!("{long}b")),
        role_name("c1", &format!("{long}c")),
    ];
    for (index, name) in names.iter().enumerate() {
        assert!(name.len() <= MAX_ROLE_NAME, "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        assert!(!names[..index].contains(name), "{name} twice");
    }
    // A name that changed with a release would orphan roles and lock agents out for a moment.
    assert_eq!(names[0], "pollux_bots_e426c51e");
}

#[test]
fn roles_of_namespaces_are_told_from_those_made_by_hand() {
    assert!(is_role_name(&role_name("c1", "more-bots")) && is_role_name(&role_name("c1", &"a".repeat(63))));
    for by_hand in ["pollux_bots", "pollux", "bots_e426c51e", "pollux_bots_E426C51E", "pollux_bots_e426c51"] {
        assert!(!is_role_name(by_hand), "{by_hand}");
    }
}

#[test]
fn a_tenants_name_is_plain() {
    assert_eq!(tenant("shop-1.eu_w"), Ok("shop-1.eu_w".to_owned()));
    for wrong in ["", " ", "a b", "a'b", "ä", &"a".repeat(64)] {
        assert!(tenant(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn passwords_differ_and_do_not_print() {
    let (one, other) = (Password::random().expect("random"), Password::random().expect("random"));
    assert!(one != other && one.0.len() == 64);
    assert_eq!(format!("{:?}", Plan::Keep(one)), "Keep(***)");
}

#[test]
fn hosts_are_read_as_they_are_written() {
    let host = |name: &str, port| Ok(Host { name: name.to_owned(), port });
    for (text, expected) in [
        ("pg.example", host("pg.example", None)),
        ("pg.example:6432", host("pg.example", Some(6432))),
        ("fd00::1", host("fd00::1", None)),
        ("[fd00::1]:6432", host("fd00::1", Some(6432))),
        ("[fd00::1]", host("fd00::1", None)),
    ] {
        assert_eq!(text.parse::<Host>(), expected, "{text}");
    }
    for wrong in ["", ":5432", "pg:0", "pg:65536", "pg:x", "[fd00::1"] {
        assert!(wrong.parse::<Host>().is_err(), "{wrong}");
    }
}
