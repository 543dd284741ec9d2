//! The order in which the scenarios run, and their summary.

use std::fmt;

use anyhow::{Result, ensure};
use pollux_testbed::{Cluster, Options};

use crate::bot::Library;
use crate::ground::Yours;
use crate::report::{Evidence, Summary};
use crate::scenarios::{Run, TTL, settle};
use crate::world::{World, blocking};

/// The cluster of the scenarios' own.
pub(crate) const CLUSTER: &str = "e2e";

/// Where a round runs.
enum Place {
    /// On a cluster of our own of this version.
    Own(String),
    /// On one of the user's.
    Yours(Yours),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(version) => write!(f, "Kubernetes {version}"),
            Self::Yours(yours) => write!(f, "{}", yours.kubeconfig.display()),
        }
    }
}

/// Runs all scenarios (or those that are named), prints the summary as the last line.
pub(crate) async fn run(only: Option<&str>, keep: bool, full: bool, yours: Option<Yours>) -> Result<()> {
    let rounds: Vec<(Place, u64)> = match (&yours, full) {
        (Some(yours), full) => (1..=if full { 5 } else { 1 }).map(|seed| (Place::Yours(yours.clone()), seed)).collect(),
        (None, false) => vec![(Place::Own(kubernetes()), 1)],
        // In turn, so that a run that is cut short has seen both.
        (None, true) => (1..=5)
            .flat_map(|seed| [kubernetes(), "1.33".to_owned()].map(|version| (Place::Own(version), seed)))
            .collect(),
    };
    let mut all = Evidence::default();
    for (place, seed) in &rounds {
        if full {
            println!("== {place}, seed {seed}");
        }
        let mut evidence = round(place, *seed, only, keep).await.unwrap_or_else(|error| {
            println!("FAILED  {error:#}");
            Evidence::failed(format!("{error:#}"))
        });
        for remark in evidence.findings.remarks() {
            println!("{remark}");
        }
        evidence.judge(TTL.as_secs());
        if full {
            println!("{}", serde_json::to_string(&Summary::new(&evidence, TTL.as_secs()))?);
        }
        all.add(evidence, &if full { format!("{place}, seed {seed}: ") } else { String::new() });
    }
    if full {
        println!("== all {} rounds", rounds.len());
        for remark in all.findings.remarks() {
            println!("{remark}");
        }
    }
    if !all.findings.skipped.is_empty() {
        println!("{} skipped: {}", all.findings.skipped.len(), all.findings.skipped.join(", "));
    }
    let summary = Summary::new(&all, TTL.as_secs());
    println!("scenarios: {} passed, {} failed", all.findings.passed.len(), summary.failed.len());
    println!("{}", serde_json::to_string(&summary)?);
    // The summary is the last line on standard output; the exit code says the rest.
    ensure!(summary.failed.is_empty(), "{} findings; they are in the summary under `failed`", summary.failed.len());
    Ok(())
}

/// The version that is asked for.
pub(crate) fn kubernetes() -> String {
    std::env::var("KUBERNETES").unwrap_or_else(|_| "1.36".to_owned())
}

async fn round(place: &Place, seed: u64, only: Option<&str>, keep: bool) -> Result<Evidence> {
    match place {
        Place::Own(version) => {
            let options = Options { name: CLUSTER.into(), nodes: 3, kubernetes: version.clone(), ..Options::default() };
            let judged = async { judge(&World::up(options).await?, seed, only).await }.await;
            if !keep {
                blocking(|| Cluster::remove(CLUSTER)).await?;
            }
            judged
        }
        Place::Yours(yours) => {
            let world = World::visit(yours.clone()).await?;
            let judged = judge(&world, seed, only).await;
            if !keep {
                yours.clear(&world).await?;
            }
            judged
        }
    }
}

async fn judge(world: &World, seed: u64, only: Option<&str>) -> Result<Evidence> {
    world.furnish().await?;
    let mut run = Run::start(world.clone(), &Library::ALL, seed).await?;
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
    scenario!("kubectl delete pod", run.delete_pod());
    scenario!("a liveness probe that fails", run.fail_probe());
    scenario!("kill -9 of the bot", run.kill_bot());
    scenario!("kill -9 of the agent", run.kill_agent());
    scenario!("kill -9 of bot and agent", run.kill_both());
    scenario!("SIGSTOP of the leader's pod", run.pause_pod());
    scenario!("mistakes are named in time", crate::mistakes::named_in_time(&run.world));
    scenario!("versions that are not fit go back, and requests are answered", run.bad_versions());
    scenario!("migrations come before the pods", crate::migrations::before_the_pods(&run.world));
    scenario!("rollouts at one and at five replicas", run.roll_one_and_five());
    scenario!("a token that is refused", run.rejected_token());
    scenario!("the emulator behind TLS with an own authority", crate::tls::own_authority(&run.world));
    scenario!("every field does what it says", crate::fields::every_field(&run.world));
    scenario!("Postgres stopped for 20 s", run.stop_postgres());
    scenario!("drain of a node", run.drain_node());
    scenario!("rollout while the operator is away", run.roll_without_controller());
    scenario!("the operator by kustomize", run.install_by_kustomize());
    scenario!("kill -9 of the active operator", run.kill_operator());
    scenario!("a node cut off, failover by sessions", run.cut_node_fast());
    scenario!("a node cut off", run.cut_node());
    scenario!("a node dead for good", run.kill_node());
    if left_out > 0 {
        run.findings.failed.push(format!("{left_out} scenarios were left out: a part proves nothing about the whole"));
    }
    let mut verdicts = std::mem::take(&mut run.verdicts);
    for bot in run.bots.clone() {
        verdicts.push((bot.library, settle(&run.world, &bot).await?));
    }
    Ok(Evidence { findings: run.findings, verdicts })
}
