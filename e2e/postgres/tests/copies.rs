//! Standbys, snapshots, lost tails and shifted clocks are what they are taken for.

use pollux_postgres::{Options, Proxy, Server};

fn server(settings: &[(&str, &str)]) -> Server {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let server = Server::start(&Options { settings, ..Options::default() }).unwrap();
    server.ask("postgres", "CREATE TABLE t (n bigint)").unwrap();
    server
}

fn insert(server: &Server, n: u32) {
    server.ask("postgres", &format!("INSERT INTO t VALUES ({n})")).unwrap();
}

fn rows(server: &Server) -> String {
    server.ask("postgres", "SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM t").unwrap()
}

#[test]
fn a_promoted_standby_has_what_it_received_and_no_more() {
    let primary = server(&[]);
    let link = Proxy::start(primary.port()).unwrap();
    let standby = primary.standby(link.port()).unwrap();
    insert(&primary, 1);
    standby.catch_up_with(&primary).unwrap();
    assert!(standby.ask("postgres", "INSERT INTO t VALUES (9)").is_err(), "it is read only");
    link.hang();
    insert(&primary, 2);
    assert_eq!(rows(&primary), "1,2", "nobody waits for an asynchronous standby");
    primary.kill().unwrap();
    standby.promote().unwrap();
    insert(&standby, 3);
    assert_eq!(rows(&standby), "1,3");
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    standby.ask("postgres", "CHECKPOINT").unwrap();
    assert_eq!(standby.ask("postgres", timeline).unwrap(), "2");
}

#[test]
fn a_proxy_that_is_retargeted_leads_to_another_server() {
    let (one, other) = (server(&[]), server(&[]));
    insert(&one, 1);
    insert(&other, 2);
    let proxy = Proxy::start(one.port()).unwrap();
    let through = |sql: &str| one.ask_through(proxy.port(), "postgres", sql).unwrap();
    assert_eq!(through("SELECT n FROM t"), "1");
    proxy.retarget(other.port());
    assert_eq!(through("SELECT n FROM t"), "2");
}

#[test]
fn a_restored_snapshot_knows_nothing_of_what_came_after_it() {
    let server = server(&[]);
    insert(&server, 1);
    let snapshot = server.snapshot().unwrap();
    insert(&server, 2);
    server.kill().unwrap();
    server.restore(snapshot).unwrap();
    server.start_again().unwrap();
    assert_eq!(rows(&server), "1");
}

#[test]
fn without_synchronous_commits_a_crash_loses_the_tail_and_with_them_it_does_not() {
    let server = server(&[]);
    for (setting, n, kept) in [("off", 1, ""), ("on", 2, "2")] {
        server.set("synchronous_commit", setting).unwrap();
        server.ask("postgres", "CHECKPOINT").unwrap();
        server.freeze_log_writer().unwrap();
        insert(&server, n);
        server.kill().unwrap();
        server.start_again().unwrap();
        assert_eq!(rows(&server), kept, "synchronous_commit={setting}");
    }
}

#[test]
fn the_servers_wall_clock_is_shifted_while_it_runs_and_its_own_waiting_is_not() {
    if let Err(missing) = Server::can_be_shifted() {
        eprintln!("SKIPPED the_servers_wall_clock_is_shifted: {missing}");
        return;
    }
    let server = Server::start(&Options { shiftable: true, ..Options::default() }).unwrap();
    // Each is asserted inside.
    for hours in [1, -1, 0] {
        server.shift_wall_clock(hours).unwrap();
        let slept = "SELECT clock_timestamp() - statement_timestamp() < interval '30 s' FROM pg_sleep(0.05)";
        assert_eq!(server.ask("postgres", slept).unwrap(), "t");
    }
    server.shift_wall_clock(1).unwrap();
    server.kill().unwrap();
    server.start_again().unwrap();
    let ours = "SELECT clock_timestamp() > to_timestamp(0) + make_interval(secs => {})";
    let unshifted = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3000;
    let ahead = server.ask("postgres", &ours.replace("{}", &unshifted.to_string())).unwrap();
    assert_eq!(ahead, "t", "the shift outlives a restart");
}

#[test]
fn a_server_that_was_not_made_for_it_refuses_to_be_shifted() {
    let server = server(&[]);
    assert!(server.shift_wall_clock(1).is_err());
}
