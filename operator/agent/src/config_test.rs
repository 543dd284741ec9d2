use super::*;

fn right(dir: &Path) -> RunOptions {
    let some = |v: &str| Some(v.to_owned());
    RunOptions {
        cluster: some("c1"),
        namespace: some("default"),
        bot: some("echo"),
        pod_name: some("echo-1"),
        pod_uid: some("5b2e"),
        node_name: some("node-a"),
        revision: some("echo-abc"),
        api_url: "https://api.telegram.org".into(),
        api_ca_file: None,
        proxy_url: None,
        token_file: "/run/pollux/token/token".into(),
        lease_uri_file: "/run/pollux/lease/uri".into(),
        shared_dir: dir.display().to_string(),
        listen: "127.0.0.1:8081".into(),
        health_listen: "0.0.0.0:9464".into(),
        drain_timeout_seconds: "20".into(),
        grace_period_seconds: "45".into(),
        adapter: "proxy".into(),
        log: "info".into(),
        log_format: "auto".into(),
    }
}

/// The one message that `change` leads to.
fn message(change: impl FnOnce(&mut RunOptions)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut options = right(dir.path());
    change(&mut options);
    let Err(Mistakes(mistakes)) = Config::new(&options) else { panic!("accepted: {options:?}") };
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes[0].to_string()
}

#[test]
fn what_a_pod_template_sets_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _) = Config::new(&right(dir.path())).unwrap();
    assert_eq!(config.drain_timeout, Duration::from_secs(20));
    assert_eq!(config.identity.pod_uid, "5b2e");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe of the directory is removed");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let options = RunOptions {
        api_url: "ftp://api.telegram.org".into(),
        shared_dir: "/does/not/exist".into(),
        listen: "0.0.0.0:8081".into(),
        health_listen: "9464".into(),
        drain_timeout_seconds: "soon".into(),
        grace_period_seconds: "-1".into(),
        adapter: "callback".into(),
        log: "loud".into(),
        log_format: "xml".into(),
        token_file: String::new(),
        lease_uri_file: String::new(),
        ..RunOptions::default()
    };
    let Err(mistakes) = Config::new(&options) else { panic!("accepted") };
    let told: Vec<_> = mistakes.0.iter().map(|m| m.flag).collect();
    let expected = [
        "cluster",
        "namespace",
        "bot",
        "pod-name",
        "pod-uid",
        "node-name",
        "revision",
        "api-url",
        "token-file",
        "lease-uri-file",
        "shared-dir",
        "listen",
        "health-listen",
        "drain-timeout-seconds",
        "grace-period-seconds",
        "adapter",
        "log",
        "log-format",
    ];
    assert_eq!(told, expected);
    assert!(mistakes.to_string().starts_with("the configuration has 18 mistakes\n"), "{mistakes}");
}

#[test]
fn a_mistake_says_what_where_and_how_to_mend_it() {
    assert_eq!(
        message(|o| o.pod_uid = None),
        "--pod-uid (POLLUX_POD_UID) is missing: set it to metadata.uid, by the downward API"
    );
}

#[test]
fn an_empty_variable_is_a_missing_one() {
    assert!(message(|o| o.bot = Some(" ".into())).contains("is missing"));
}

#[test]
fn a_token_that_was_pasted_into_the_url_is_not_repeated() {
    let said = message(|o| o.api_url = "https://api.telegram.org/bot123:canary/".into());
    assert!(said.contains("has a token in its path") && !said.contains("canary"), "{said}");
    let said = message(|o| o.api_url = "bot123:canary".into());
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_gate_for_the_whole_network_is_refused() {
    for open in ["0.0.0.0:8081", "10.0.0.7:8081", "[::]:8081"] {
        assert!(message(|o| o.listen = open.into()).contains("not loopback"), "{open}");
    }
}

#[test]
fn two_listeners_on_one_port_are_refused() {
    assert!(message(|o| o.health_listen = "0.0.0.0:8081".into()).contains("has the port of --listen"));
}

#[test]
fn a_ca_file_without_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, "not a certificate\n").unwrap();
    assert!(message(|o| o.api_ca_file = Some(file.display().to_string())).contains("holds no certificate"));
    assert!(message(|o| o.api_ca_file = Some("/does/not/exist".into())).contains("cannot be read"));
}

#[test]
fn a_shared_directory_that_is_too_deep_for_a_socket_is_refused() {
    assert!(message(|o| o.shared_dir = format!("/tmp/{}", "d".repeat(100))).contains("too long for a unix socket"));
}

#[test]
fn a_proxy_is_a_host_and_a_port_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let with = |proxy: &str| RunOptions { proxy_url: Some(proxy.to_owned()), ..right(dir.path()) };
    let (config, _) = Config::new(&with("http://proxy.example:3128")).unwrap();
    assert_eq!(config.proxy_url.unwrap().as_str(), "http://proxy.example:3128/");
    let (config, _) = Config::new(&with(" ")).unwrap();
    assert_eq!(config.proxy_url, None, "an empty variable is none");
    for proxy in
        ["http://me:hunter2@proxy:3128", "https://proxy:3128", "socks5://proxy", "proxy:3128", "http://proxy/x"]
    {
        let said = message(|o| o.proxy_url = Some(proxy.to_owned()));
        assert!(said.contains("POLLUX_PROXY_URL") && !said.contains("hunter2"), "{said}");
    }
}
