//! A real cluster, as root: `cargo test -p pollux-testbed -- --ignored` (what `make e2e` runs). About two minutes once
//! Kubernetes is built. `KUBERNETES=1.33` tests the other version.

mod support;

use std::process::Command;
use std::time::Duration;

use pollux_testbed::{Cluster, Direction, Signal};
use support::{Guard, alone, apply, eventually, get, host, kubectl, ok, options, probe_image, processes, try_web, web};

const SOON: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn pods_run_are_served_and_survive_what_is_done_to_them() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let before = host("t-smoke");
    let guard = Guard(Cluster::up(options("t-smoke", 2)).unwrap());
    let cluster = &guard.0;
    cluster.load(&[probe_image(folder.path())]).unwrap();
    apply(cluster, "pods.yaml");
    kubectl(cluster, "rollout status -n smoke ds/web --timeout=60s");
    kubectl(cluster, "rollout status -n smoke deploy/mover --timeout=60s");

    a_restricted_pod_is_confined(cluster);
    a_service_and_its_name_answer_on_both_nodes(cluster);
    a_killed_container_comes_back_and_a_stopped_one_stands_still(cluster);
    a_cut_pod_hears_nothing_until_it_is_healed(cluster);
    a_cut_node_is_not_ready_until_it_is_healed(cluster);
    a_dead_node_has_no_process_and_comes_back(cluster);
    a_stopped_api_server_does_not_answer(cluster);
    a_drain_moves_pods_away(cluster);
    a_second_cluster_does_not_disturb_the_first(cluster);

    drop(guard);
    assert_eq!(before, host("t-smoke"), "something was left");
}

fn a_restricted_pod_is_confined(cluster: &Cluster) {
    let (pod, _) = web(cluster, "node-2");
    let pids = cluster.processes(&pod, Some("bot")).unwrap();
    assert_eq!(pids.len(), 1, "{pids:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
    let value = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
    assert_eq!(value("Seccomp:"), "2", "no seccomp filter");
    assert_eq!(value("NoNewPrivs:"), "1");
    assert!(value("Uid:").starts_with("1234"), "{}", value("Uid:"));
    assert_eq!(cluster.processes(&pod, None).unwrap().len(), 2, "the sidecar runs beside the bot");

    let limits = Command::new("find")
        .args(["/sys/fs/cgroup", "-path", "*/pollux-testbed-t-smoke/*"])
        .args(["(", "-name", "memory.max", "-o", "-name", "memory.limit_in_bytes", ")"])
        .args(["-exec", "grep", "-lx", "33554432", "{}", "+"])
        .output()
        .unwrap();
    assert!(!limits.stdout.is_empty(), "no memory limit in any cgroup");
}

fn a_service_and_its_name_answer_on_both_nodes(cluster: &Cluster) {
    for node in cluster.nodes() {
        let (_, address) = web(cluster, &node);
        let pod = cluster.forward(&format!("{address}:8080"), 0).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        eventually("both pods answer by the service's name", SOON, || {
            seen.extend(ok(pod, "/get/web.smoke.svc.cluster.local:80"));
            seen.len() == 2
        });
        assert!(seen.iter().all(|name| name.starts_with("web-")), "{seen:?}");
    }
    let service = cluster.forward("service/smoke/web:80", 0).unwrap();
    eventually("a forwarded service answers", SOON, || ok(service, "/").is_some());
    assert_eq!(cluster.forward("service/smoke/web:80", service.port()).unwrap(), service, "asked for twice");
}

fn a_killed_container_comes_back_and_a_stopped_one_stands_still(cluster: &Cluster) {
    let (pod, address) = web(cluster, "node-2");
    let before = cluster.processes(&pod, Some("bot")).unwrap();
    assert_eq!(cluster.signal(&pod, Some("bot"), Signal::Kill).unwrap(), before);
    eventually("another process", SOON, || {
        cluster.processes(&pod, Some("bot")).is_ok_and(|now| !now.is_empty() && now != before)
    });

    let door = cluster.forward(&format!("{address}:8080"), 0).unwrap();
    eventually("the new process answers", SOON, || ok(door, "/").is_some());
    cluster.signal(&pod, None, Signal::Stop).unwrap();
    assert_eq!(get(door, "/"), None, "a stopped process answered");
    cluster.signal(&pod, None, Signal::Continue).unwrap();
    eventually("it goes on", SOON, || ok(door, "/").is_some());
}

fn a_cut_pod_hears_nothing_until_it_is_healed(cluster: &Cluster) {
    let (pod, address) = web(cluster, "node-2");
    let (_, other) = web(cluster, "node-1");
    let door = cluster.forward(&format!("{address}:8080"), 0).unwrap();
    let there = format!("/get/{other}:8080");
    eventually("before the cut", SOON, || ok(door, &there).is_some());
    for direction in [Direction::Both, Direction::Incoming, Direction::Outgoing] {
        cluster.cut_pod(&pod, other, direction).unwrap();
        assert_eq!(get(door, &there).map(|(code, _)| code), Some(504), "{direction:?}");
        assert!(ok(door, "/").is_some(), "cut off from more than that address ({direction:?})");
        cluster.heal_pod(&pod).unwrap();
        eventually("after the cut", SOON, || ok(door, &there).is_some());
    }
    // By the address of a service too; the name server is another address and stays reachable.
    let service = kubectl(cluster, "get service -n smoke web -o jsonpath={.spec.clusterIP}");
    cluster.cut_pod(&pod, service.parse().unwrap(), Direction::Incoming).unwrap();
    assert_eq!(get(door, "/get/web.smoke.svc.cluster.local:80").map(|(code, _)| code), Some(504));
    assert!(ok(door, &there).is_some());
    cluster.heal_pod(&pod).unwrap();
}

fn a_cut_node_is_not_ready_until_it_is_healed(cluster: &Cluster) {
    let (_, address) = web(cluster, "node-2");
    let door = cluster.forward(&format!("{address}:8080"), 0).unwrap();
    for direction in [Direction::Incoming, Direction::Outgoing] {
        cluster.cut_node("node-2", direction).unwrap();
        assert_eq!(get(door, "/"), None, "{direction:?}");
        cluster.heal_node("node-2").unwrap();
        eventually("healed", SOON, || ok(door, "/").is_some());
    }
    cluster.cut_node("node-2", Direction::Both).unwrap();
    cluster.wait_node("node-2", false, Duration::from_secs(45)).unwrap();
    cluster.heal_node("node-2").unwrap();
    cluster.wait_node("node-2", true, Duration::from_secs(45)).unwrap();
}

fn a_dead_node_has_no_process_and_comes_back(cluster: &Cluster) {
    let (pod, _) = web(cluster, "node-2");
    let pids = cluster.processes(&pod, None).unwrap();
    assert!(!pids.is_empty());
    cluster.kill_node("node-2").unwrap();
    // What is dead may wait for a slow process 1 to notice.
    let alive =
        |pid: &&i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "));
    assert_eq!(pids.iter().find(alive), None);
    let status = cluster.status();
    let dead: Vec<_> = status.daemons.iter().filter(|(_, pid)| pid.is_none()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(dead, ["containerd-2", "kubelet-2", "kube-proxy-2"]);

    // `up` of a cluster with a dead node switches it on.
    Cluster::up(options("t-smoke", 2)).unwrap();
    let mut door = None;
    eventually("its pod runs again", Duration::from_secs(60), || {
        let Some((_, address)) = try_web(cluster, "node-2") else { return false };
        if door.is_none_or(|(before, _)| before != address) {
            door = Some((address, cluster.forward(&format!("{address}:8080"), 0).unwrap()));
        }
        door.is_some_and(|(_, door)| ok(door, "/").is_some())
    });
}

fn a_stopped_api_server_does_not_answer(cluster: &Cluster) {
    cluster.stop_api_server().unwrap();
    assert!(!cluster.status().answers);
    cluster.continue_api_server().unwrap();
    assert!(cluster.status().answers);
}

fn a_drain_moves_pods_away(cluster: &Cluster) {
    kubectl(cluster, "rollout status -n smoke deploy/mover --timeout=60s");
    cluster.drain("node-2", Duration::from_secs(60)).unwrap();
    let on_node = "get pods -n smoke -l app=mover --field-selector spec.nodeName=node-2 -o name";
    assert_eq!(kubectl(cluster, on_node), "");
    cluster.uncordon("node-2").unwrap();
}

fn a_second_cluster_does_not_disturb_the_first(cluster: &Cluster) {
    let second = Guard(Cluster::up(options("t-second", 1)).unwrap());
    assert_ne!(second.0.api_address().unwrap(), cluster.api_address().unwrap());
    assert_eq!(kubectl(&second.0, "get nodes -o name").lines().count(), 1);
    drop(second);
    assert!(processes("t-second").is_empty());
    assert_eq!(kubectl(cluster, "get nodes -o name").lines().count(), 2);
    kubectl(cluster, "rollout status -n smoke ds/web --timeout=60s");
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn a_second_start_changes_nothing_and_one_after_a_massacre_works() {
    let _alone = alone();
    let before = host("t-twice");
    pollux_testbed::build(&support::kubernetes(), false, &Default::default()).unwrap();
    let guard = Guard(Cluster::up(options("t-twice", 2)).unwrap());
    let daemons = guard.0.status().daemons;

    let again = Cluster::up(options("t-twice", 2)).unwrap();
    assert_eq!(again.status().daemons, daemons, "a second start replaced something");
    let error = Cluster::up(options("t-twice", 1)).unwrap_err().to_string();
    assert!(error.contains("runs already"), "{error}");

    eventually("everything is dead", SOON, || {
        for pid in processes("t-twice") {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        processes("t-twice").is_empty()
    });
    Cluster::up(options("t-twice", 2)).unwrap();
    drop(guard);
    assert_eq!(before, host("t-twice"), "something was left");
    assert!(Cluster::attach("t-twice").is_err());
    Cluster::remove("t-twice").unwrap(); // of nothing: fine
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn an_interrupted_start_leaves_nothing() {
    let _alone = alone();
    pollux_testbed::build(&support::kubernetes(), false, &Default::default()).unwrap();
    let before = host("t-stop");
    for milliseconds in [100, 1500, 4000] {
        let mut up = Command::new(env!("CARGO_BIN_EXE_pollux-testbed"))
            .args(["up", "--name", "t-stop", "--nodes", "2", "--kubernetes", &support::kubernetes()])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds)); // the hazard: a signal at any time
        Command::new("kill").args(["-INT", &up.id().to_string()]).status().unwrap();
        assert!(!up.wait().unwrap().success(), "it was up before the signal came");
        assert_eq!(before, host("t-stop"), "after {milliseconds} ms something was left");
    }
    Cluster::remove("t-stop").unwrap(); // the logs
}
