//! Thirty random schedules of faults. A run of the same program that goes on for an hour is `make soak`.

use std::process::Command;

use serde_json::Value;

const SCHEDULES: u64 = 30;
/// The processes of a schedule mostly wait.
const LANES: u64 = 4;
/// What thirty schedules lead at the least.
const EPOCHS: u64 = 100;

#[test]
fn whatever_fails_there_is_one_leader_and_epochs_rise_and_somebody_leads_again_in_time() {
    let seed = std::env::var("POLLUX_SEED").unwrap_or_else(|_| rand::random_range(1..1_000_000_000_u64).to_string());
    println!("POLLUX_SEED={seed}");
    let run = Command::new(env!("CARGO_BIN_EXE_pollux-lease-soak"))
        .args(["schedules", "--seed", &seed, "--count", &SCHEDULES.to_string(), "--lanes", &LANES.to_string()])
        .args(["--faults", "process,network,proxy,database"])
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{said}");
    assert!(run.status.success(), "{failed}");
    let total: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(total["schedules"], SCHEDULES);
    assert_eq!((&total["overlaps"], &total["stale_epochs"]), (&0.into(), &0.into()));
    assert!(total["epochs"].as_u64().unwrap() >= EPOCHS, "too little happened to show anything: {total}");
}
