//! A whole run: what needs silence first and alone, then everything that mostly waits side by side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pollux_testbed::Versions;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::figure::Figure;
use crate::handover;
use crate::lane::Lane;
use crate::report::{Key, Report};
use crate::restart;
use crate::rows::{Plan, Row, Size};
use crate::world::{Needs, World};
use crate::{scale, scale_batched};

/// What one lane found, and how often its leader changed needlessly.
type Found = (Row, Vec<(&'static str, Figure)>, usize);

/// Measures the rows that are wanted. Returns the figures and the names of the rows that failed.
pub(crate) async fn run(rows: &[Row], size: Size) -> Result<(Value, Vec<String>)> {
    let needs = rows.iter().fold(Needs::default(), |needs, row| needs.and(row.needs()));
    let world = Arc::new(World::start(needs, size.of(Duration::from_secs(60), Duration::from_secs(45))).await?);
    let mut run = Run { world, report: Report::default(), size, failed: Vec::new(), begun: Instant::now() };
    let wanted: Vec<Row> = rows.iter().copied().filter(|row| run.can(*row)).collect();
    if wanted.contains(&Row::Handover) {
        let done = run.handovers().await;
        run.note(Row::Handover, done);
    }
    let plans: Vec<Plan> = wanted.iter().flat_map(|row| row.plans(size)).collect();
    for plan in plans.iter().filter(|plan| plan.alone) {
        run.stage(&format!("{:?}, alone", plan.row));
        run.together(std::slice::from_ref(plan)).await;
    }
    let waiting: Vec<Plan> = plans.into_iter().filter(|plan| !plan.alone).collect();
    if !waiting.is_empty() {
        run.stage("everything that mostly waits, side by side");
        run.together(&waiting).await;
    }
    if wanted.contains(&Row::Restart) {
        let done = run.restarts().await;
        run.note(Row::Restart, done);
    }
    if wanted.contains(&Row::ScaleSingle) {
        let done = run.scale_single().await;
        run.note(Row::ScaleSingle, done);
    }
    if wanted.contains(&Row::ScaleBatched) {
        let done = run.scale_batched().await;
        run.note(Row::ScaleBatched, done);
    }
    eprintln!("\n{}", run.report.table());
    let about = run.about().await?;
    Ok((run.report.json(about), run.failed))
}

struct Run {
    world: Arc<World>,
    report: Report,
    size: Size,
    failed: Vec<String>,
    begun: Instant,
}

// === impl Run ===

impl Run {
    fn stage(&self, what: &str) {
        eprintln!("-- {:>4} s: {what}", self.begun.elapsed().as_secs());
    }

    /// Whether this schema can do what the row needs; if not, that is in the report.
    fn can(&mut self, row: Row) -> bool {
        let can = !row.needs_fast() || self.world.knows_fast();
        if !can {
            self.report.lacks(&row.name(), "this schema does not know Fast");
        }
        can
    }

    fn note(&mut self, row: Row, outcome: Result<()>) {
        if let Err(error) = outcome {
            eprintln!("{} FAILED: {error:#}", row.name());
            self.report.lacks(&row.name(), &format!("{error:#}"));
            self.failed.push(row.name());
        }
    }

    async fn handovers(&mut self) -> Result<()> {
        self.stage("handovers and the floor, in turns, alone");
        let found = handover::measure(&self.world, self.size.of(300, 20)).await?;
        let floor = found.floor.percentile(50).context("no floor")?.as_secs_f64();
        let ratio =
            |percent| found.lease.percentile(percent).map(|took| (took.as_secs_f64() / floor * 100.0).round() / 100.0);
        let ratios = json!({"p50": ratio(50), "p99": ratio(99)});
        self.report.put(Key::own("handover_over_floor"), ratios);
        self.report.add(Key::own("floor_ms"), found.floor);
        self.report.add(Key::own("handover_ms"), found.lease);
        self.report.put(Key::own("handovers_without_successor"), json!(found.released));
        Ok(())
    }

    async fn restarts(&mut self) -> Result<()> {
        self.stage("the database is away for 5 s, twice");
        let kinds = restart::measure(&self.world, self.size).await?;
        let count = |kind: &restart::Restarted| json!({"changes": kind.changes, "leaders": kind.leaders, "silence_ms_max": kind.silence.as_millis()});
        let (ours, theirs): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| kind.row == Row::Restart);
        let changes = ours.iter().map(|kind| kind.changes).sum::<usize>();
        self.report.put(Key::own("changes_on_restart"), json!(changes));
        let modes: Map<String, Value> = ours.iter().map(|kind| (kind.name.to_owned(), count(kind))).collect();
        self.report.put(Key::own("restarts"), Value::Object(modes));
        theirs.into_iter().for_each(|kind| self.report.put(Key::of(kind.row, kind.name), count(kind)));
        Ok(())
    }

    async fn scale_single(&mut self) -> Result<()> {
        self.stage("one statement for each agent, through PgBouncer, alone");
        let entries = scale::single(&self.world, self.size).await?;
        self.report.put(Key::own("scale_single"), json!(entries));
        Ok(())
    }

    async fn scale_batched(&mut self) -> Result<()> {
        self.stage("one statement for all leases of a process, alone");
        let entries = scale_batched::batched(&self.world, self.size).await?;
        self.report.put(Key::own("scale_batched"), json!(entries));
        Ok(())
    }

    /// All lanes of these plans at once. A lane that fails costs its own row.
    async fn together(&mut self, plans: &[Plan]) {
        let mut lanes: JoinSet<(Row, Result<Found>)> = JoinSet::new();
        for (number, plan) in plans.iter().flat_map(|plan| std::iter::repeat_n(plan, plan.lanes)).enumerate() {
            let (world, plan) = (self.world.clone(), plan.clone());
            // Processes that all start at once would find each other's start in their way.
            let pause = Duration::from_millis(300) * u32::try_from(number).unwrap_or_default();
            lanes.spawn(async move {
                tokio::time::sleep(pause).await;
                (plan.row, lane(world, &plan).await)
            });
        }
        while let Some(ended) = lanes.join_next().await {
            match ended {
                Ok((_, Ok((row, figures, needless)))) => {
                    self.report.needless(needless);
                    figures.into_iter().for_each(|(key, figure)| self.report.add(Key::of(row, key), figure));
                }
                Ok((row, Err(error))) => self.note(row, Err(error)),
                Err(error) => self.failed.push(format!("a lane: {error}")),
            }
        }
    }

    /// What is to be known of a run besides its figures.
    async fn about(&self) -> Result<Map<String, Value>> {
        let version = self.world.client().await?.query_one("SHOW server_version", &[]).await?.get::<_, String>(0);
        let versions = Versions::load();
        let about = json!({
            "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            "size": self.size.of("full", "quick"),
            "seconds": self.begun.elapsed().as_secs(),
            "cores": std::thread::available_parallelism()?.get(),
            "postgresql": version,
            "kubernetes": versions.kubernetes(&versions.default)?,
            "etcd": versions.component("etcd")?,
        });
        about.as_object().cloned().context("an object")
    }
}

async fn lane(world: Arc<World>, plan: &Plan) -> Result<Found> {
    let mut lane = Lane::open(world, plan.elector, plan.way).await?;
    let mut found = Vec::new();
    for step in &plan.steps {
        found.push((step.key, lane.samples(step.fault, step.samples).await?));
    }
    Ok((plan.row, found, lane.needless()))
}
