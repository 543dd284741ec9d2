//! The order in which the scenarios run, and their summary.

use anyhow::{Result, ensure};
use pollux_testbed::{Cluster, Options};

use crate::bot::Library;
use crate::report::{Evidence, Summary};
use crate::scenarios::{Run, TTL, settle};
use crate::world::{World, blocking};

/// The node that is cut off, and the one that is drained and later dies. What must survive is on node-1.
const CUT: &str = "node-3";
const DEAD: &str = "node-2";

/// Runs all scenarios (or those that are named), prints the summary as the last line.
pub(crate) async fn run(only: Option<&str>, keep: bool, full: bool) -> Result<()> {
    let version = std::env::var("KUBERNETES").unwrap_or_else(|_| "1.36".to_owned());
    let rounds: Vec<(String, u64)> = if full {
        (1..=5).map(|seed| (version.clone(), seed)).chain((1..=5).map(|seed| ("1.33".to_owned(), seed))).collect()
    } else {
        vec![(version, 1)]
    };
    let mut all = Evidence::default();
    for (kubernetes, seed) in &rounds {
        if full {
            println!("== Kubernetes {kubernetes}, seed {seed}");
        }
        let mut evidence = round(kubernetes, *seed, only, keep).await.unwrap_or_else(|error| {
            println!("FAILED  {error:#}");
            Evidence::failed(format!("{error:#}"))
        });
        for remark in evidence.findings.remarks() {
            println!("{remark}");
        }
        evidence.check_floors();
        if full {
            println!("{}", serde_json::to_string(&Summary::new(&evidence, TTL.as_secs()))?);
        }
        all.add(evidence, &if full { format!("{kubernetes}, seed {seed}: ") } else { String::new() });
    }
    if full {
        println!("== all {} rounds", rounds.len());
        for remark in all.findings.remarks() {
            println!("{remark}");
        }
    }
    let summary = Summary::new(&all, TTL.as_secs());
    println!("scenarios: {} passed, {} failed", all.findings.passed.len(), summary.failed.len());
    println!("{}", serde_json::to_string(&summary)?);
    // The summary is the last line on standard output; the exit code says the rest.
    ensure!(summary.failed.is_empty(), "{} findings; they are in the summary under `failed`", summary.failed.len());
    Ok(())
}

async fn round(kubernetes: &str, seed: u64, only: Option<&str>, keep: bool) -> Result<Evidence> {
    let options = Options { name: "e2e".into(), nodes: 3, kubernetes: kubernetes.into(), ..Options::default() };
    let name = options.name.clone();
    let judged = async { judge(World::up(options).await?, seed, only).await }.await;
    if !keep {
        blocking(move || Cluster::remove(&name)).await?;
    }
    judged
}

async fn judge(world: World, seed: u64, only: Option<&str>) -> Result<Evidence> {
    let mut run = Run::start(world, &Library::ALL, seed).await?;
    let mut left_out = 0;
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    macro_rules! scenario {
        ($name:literal, $run:expr) => {
            if wanted($name) {
                let outcome = $run.await;
                run.scenario($name, outcome).await;
            } else {
                left_out += 1;
            }
        };
    }
    scenario!("rollout of every library", run.roll_all());
    scenario!("rollout with a backlog", run.roll_with_backlog());
    scenario!("one to two to one replicas", run.scale());
    scenario!("kill -9 of the bot", run.kill_bot());
    scenario!("kill -9 of the agent", run.kill_agent());
    scenario!("kill -9 of bot and agent", run.kill_both());
    scenario!("SIGSTOP of the leader's pod", run.pause_pod());
    scenario!("mistakes are named in time", crate::mistakes::named_in_time(&run.world));
    scenario!("a token that is refused", run.rejected_token());
    scenario!("the emulator behind TLS with an own authority", crate::tls::own_authority(&run.world));
    scenario!("every field does what it says", crate::fields::every_field(&run.world));
    scenario!("Postgres stopped for 20 s", run.stop_postgres());
    scenario!("drain of a node", run.drain_node(DEAD));
    scenario!("rollout while the operator is away", run.roll_without_controller());
    scenario!("kill -9 of the active operator", run.kill_operator());
    scenario!("a node cut off", run.cut_node(CUT));
    scenario!("a node dead for good", run.kill_node(DEAD));
    if left_out > 0 {
        run.findings.failed.push(format!("{left_out} scenarios were left out: a part proves nothing about the whole"));
    }
    let mut verdicts = std::mem::take(&mut run.verdicts);
    for bot in run.bots.clone() {
        verdicts.push((bot.library, settle(&run.world, &bot).await?));
    }
    let switches = switches(&run.world).await?;
    Ok(Evidence { findings: run.findings, verdicts, switches })
}

/// The switch times of planned handovers as the lease database has them, in milliseconds.
async fn switches(world: &World) -> Result<Vec<f64>> {
    // Both sides' shares are there exactly when two living agents took part.
    let sum = "(old_us + coalesce(idle_us, 0) + new_us) / 1000.0";
    let rows = world
        .psql(&format!("select {sum} from pollux.handover where old_us is not null and new_us is not null"))
        .await?;
    Ok(rows.lines().filter_map(|row| row.trim().parse().ok()).collect())
}
