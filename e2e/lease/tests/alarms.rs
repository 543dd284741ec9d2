//! The count of false alarms sees what there is to see. All of it is `make false-alarms`.

use std::process::{Command, Output};

use serde_json::Value;

fn alarms(only: &str, overstay: &str) -> (Output, Value) {
    let run = Command::new(env!("CARGO_BIN_EXE_pollux-lease-soak"))
        .args(["alarms", "--rounds", "1", "--bots", "1", "--only", only])
        .env("POLLUX_OVERSTAY_MS", overstay)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&run.stderr));
    let sums = serde_json::from_str(said.lines().last().expect("a last line")).expect("the sums as JSON");
    (run, sums)
}

#[test]
fn a_database_that_stands_still_deposes_nobody_and_a_leader_that_does_is_counted() {
    let (run, sums) = alarms("stall500ms,frozen", "0");
    assert!(run.status.success());
    let deposed = &sums["deposed"];
    for mode in ["ttl", "fast"] {
        assert_eq!(deposed["stall500ms"][mode]["leaders"], 1, "{sums}");
        assert_eq!(deposed["stall500ms"][mode]["deposed"], 0, "{sums}");
    }
    // Its session was ended, and nobody waited for the TTL.
    assert_eq!(deposed["frozen"]["ttl"]["deposed"], 0, "{sums}");
    assert_eq!(deposed["frozen"]["fast"]["deposed"], 1, "{sums}");
    assert_eq!(deposed["frozen"]["fast"]["evidence"]["session"], 1, "{sums}");
}

#[test]
fn a_leader_that_acts_after_it_was_deposed_fails_the_run() {
    let (run, sums) = alarms("frozen", "5000");
    assert!(!run.status.success());
    assert!(sums["missed"].to_string().contains("two leaders at one instant"), "{sums}");
}
