//! What happens to a bot in a cell.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pollux_botapi::{Fault, FaultKind, Push};
use serde::{Deserialize, Serialize};

use crate::ground::{Figures, Ground, Replica};

/// Messages a second: about half of what a bot does that works on one at a time, at 100 ms each.
const RATE: f64 = 4.0;
/// Messages that come at once, every ten seconds.
const BURST: u32 = 8;
/// Somebody answers again within this time after anything that happens here: the lease's TTL and a bot's start.
const BACK: Duration = Duration::from_secs(90);

/// One row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// One version after the other, under load.
    Roll,
    /// Bot and agent of the leader die at once, a standby is there.
    Crash,
    /// Two replicas and a message now and then.
    TwoIdle,
    /// Two replicas under load.
    TwoLoaded,
    /// One replica, two, one, two.
    Scale,
    /// Somebody polls with the same token for ten seconds.
    ForeignPoller,
    /// A webhook was left set.
    WebhookLeft,
    /// The bot asks to drop what is pending.
    DropFlag,
    /// getUpdates is refused with 429.
    #[serde(rename = "storm-429")]
    Storm429,
    /// getUpdates is refused with 502.
    #[serde(rename = "storm-502")]
    Storm502,
    /// getMe is refused with 502 at the bot's start.
    #[serde(rename = "get-me-502")]
    GetMe502,
    /// The lease's database is away for 20 s.
    PostgresAway,
    /// The agent's container is killed and started again.
    GateRestart,
    /// The bot's container is killed and started again.
    BotRestart,
    /// A hundred messages are waiting at the start; a roll in the midst of them.
    Backlog,
    /// A handler that answers at once; a roll while it has messages in hand.
    #[serde(rename = "silent-0")]
    Silent0,
    /// The same with one that works for a second and calls nothing meanwhile.
    #[serde(rename = "silent-1")]
    Silent1,
    /// Three seconds.
    #[serde(rename = "silent-3")]
    Silent3,
    /// Ten.
    #[serde(rename = "silent-10")]
    Silent10,
    /// Thirty: it outlasts the drain.
    #[serde(rename = "silent-30")]
    Silent30,
}

/// All of them.
pub(crate) const ALL: [Scenario; 20] = [
    Scenario::Roll,
    Scenario::Crash,
    Scenario::TwoIdle,
    Scenario::TwoLoaded,
    Scenario::Scale,
    Scenario::ForeignPoller,
    Scenario::WebhookLeft,
    Scenario::DropFlag,
    Scenario::Storm429,
    Scenario::Storm502,
    Scenario::GetMe502,
    Scenario::PostgresAway,
    Scenario::GateRestart,
    Scenario::BotRestart,
    Scenario::Backlog,
    Scenario::Silent0,
    Scenario::Silent1,
    Scenario::Silent3,
    Scenario::Silent10,
    Scenario::Silent30,
];

// === impl Scenario ===

impl Scenario {
    /// As it is written on the command line and in the report.
    pub(crate) fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Whether it is about handlers that call nothing while they work.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::Silent0 | Self::Silent1 | Self::Silent3 | Self::Silent10 | Self::Silent30)
    }

    /// How long a handler works.
    pub(crate) fn handler(self) -> Duration {
        Duration::from_millis(match self {
            Self::Silent0 => 0,
            Self::Silent1 => 1_000,
            Self::Silent3 => 3_000,
            Self::Silent10 => 10_000,
            Self::Silent30 => 30_000,
            _ => 100,
        })
    }

    /// Runs it, `runs` times where it has a middle that can be repeated.
    pub(crate) async fn run(self, ground: &Ground, runs: u32) -> Result<Figures> {
        match self {
            Self::Roll => roll(ground, runs).await,
            Self::Crash => crash(ground, runs).await,
            Self::TwoIdle => two(ground, 0.5, 0, Duration::from_secs(45)).await,
            Self::TwoLoaded => two(ground, RATE, BURST, Duration::from_secs(30)).await,
            Self::Scale => scale(ground).await,
            Self::ForeignPoller => foreign_poller(ground).await,
            Self::WebhookLeft => webhook_left(ground).await,
            Self::DropFlag => drop_flag(ground).await,
            Self::Storm429 => {
                storm(ground, Fault::new("getUpdates", FaultKind::Status(429)).seconds(Duration::from_secs(2))).await
            }
            Self::Storm502 => storm(ground, Fault::new("getUpdates", FaultKind::Html(502))).await,
            Self::GetMe502 => get_me_502(ground).await,
            Self::PostgresAway => postgres_away(ground).await,
            Self::GateRestart => gate_restart(ground).await,
            Self::BotRestart => bot_restart(ground, runs).await,
            Self::Backlog => backlog(ground).await,
            // What is in hand at the roll is less than a drain's work for a bot that does one thing after the other.
            Self::Silent0 => silent(ground, 6, runs).await,
            Self::Silent1 => silent(ground, 6, runs).await,
            Self::Silent3 => silent(ground, 4, runs).await,
            Self::Silent10 | Self::Silent30 => silent(ground, 1, runs).await,
        }
    }
}

async fn roll(ground: &Ground, runs: u32) -> Result<Figures> {
    let mut old = ground.replica().await?;
    ground.load(RATE, BURST)?;
    ground.answers(4, BACK).await?;
    for _ in 0..runs {
        let new = ground.replica().await?;
        ground.delete(old).await?;
        ground.answers(8, BACK).await?;
        old = new;
    }
    ground.judge(vec![old]).await
}

/// Rolls a bot that has `in_hand` messages in hand and calls nothing while it works on one.
async fn silent(ground: &Ground, in_hand: u32, runs: u32) -> Result<Figures> {
    let mut old = ground.replica().await?;
    for _ in 0..runs {
        let new = ground.replica().await?;
        let pushed = ground.emulator.push(&ground.token, Push { count: in_hand, ..Push::default() })?;
        let delivered = |e: &pollux_botapi::Emulator| {
            let ledger = e.ledger(&ground.token);
            ledger.is_ok_and(|l| l.updates.iter().any(|u| pushed.contains(&u.id) && !u.deliveries.is_empty()))
        };
        ensure!(ground.emulator.until(BACK, delivered).await, "nothing was delivered");
        ground.delete(old).await?;
        ground.still().await?;
        old = new;
    }
    ground.judge(vec![old]).await
}

async fn crash(ground: &Ground, runs: u32) -> Result<Figures> {
    let mut pods = vec![ground.replica().await?];
    if ground.mode != crate::ground::Mode::Direct {
        pods.push(ground.replica().await?);
    }
    ground.load(RATE, BURST)?;
    ground.answers(4, BACK).await?;
    for _ in 0..runs {
        let leader = leader(&pods).await?;
        hands_full(ground).await?;
        ground.crash(pods.remove(leader)).await;
        pods.push(ground.replica().await?);
        ground.answers(30, BACK).await?;
    }
    ground.judge(pods).await
}

/// A burst, and waits until the bot has some of it in hand: a death at a quiet moment would show nothing.
async fn hands_full(ground: &Ground) -> Result<()> {
    ground.emulator.push(&ground.token, Push { count: BURST, ..Push::default() })?;
    let in_hand = |e: &pollux_botapi::Emulator| {
        let ledger = e.ledger(&ground.token);
        ledger.is_ok_and(|l| l.updates.iter().rev().any(|u| !u.deliveries.is_empty() && u.replies.is_empty()))
    };
    ensure!(ground.emulator.until(BACK, in_hand).await, "nothing was delivered");
    Ok(())
}

async fn leader(pods: &[Replica]) -> Result<usize> {
    let began = Instant::now();
    while began.elapsed() < BACK {
        for (index, pod) in pods.iter().enumerate() {
            if pod.leads().await {
                return Ok(index);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("nobody leads")
}

async fn two(ground: &Ground, rate: f64, burst: u32, time: Duration) -> Result<Figures> {
    let (one, two) = (ground.replica().await?, ground.replica().await?);
    ground.load(rate, burst)?;
    tokio::time::sleep(time).await;
    ground.judge(vec![one, two]).await
}

async fn scale(ground: &Ground) -> Result<Figures> {
    let mut pods = vec![ground.replica().await?];
    ground.load(RATE, BURST)?;
    for _ in 0..2 {
        pods.push(ground.replica().await?);
        ground.answers(10, BACK).await?;
        // Kubernetes may choose either; the leader is the worse choice.
        let leader = leader(&pods).await?;
        ground.delete(pods.remove(leader)).await?;
        ground.answers(10, BACK).await?;
    }
    ground.judge(pods).await
}

async fn foreign_poller(ground: &Ground) -> Result<Figures> {
    let (one, two) = (ground.replica().await?, ground.replica().await?);
    ground.load(RATE, 0)?;
    ground.answers(4, BACK).await?;
    let api = ground.emulator.lane("foreign").await?;
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        // It confirms nothing, so what it takes comes again.
        call(&api, &ground.token, "getUpdates?timeout=3").await?;
    }
    ground.answers(10, BACK).await?;
    ground.judge(vec![one, two]).await
}

async fn webhook_left(ground: &Ground) -> Result<Figures> {
    let api = ground.emulator.url();
    call(&api, &ground.token, "setWebhook?url=https%3A%2F%2Fexample.org%2Fhook").await?;
    let one = ground.replica().await?;
    ground.load(RATE, 0)?;
    if ground.answers(4, Duration::from_secs(8)).await.is_err() {
        // A library that does not ask for its end: then a person has to.
        call(&api, &ground.token, "deleteWebhook").await?;
    }
    ground.answers(20, BACK).await?;
    ground.judge(vec![one]).await
}

async fn drop_flag(ground: &Ground) -> Result<Figures> {
    ground.emulator.push(&ground.token, Push { count: 10, ..Push::default() })?;
    let one = ground.start().await?;
    if let Some(agent) = &one.agent {
        // What libraries do at their start when they were told to drop what is pending.
        let gate = agent.pod.gate();
        call(&gate, &ground.token, "deleteWebhook?drop_pending_updates=true").await?;
        call(&gate, &ground.token, "getUpdates?offset=-1&timeout=0").await?;
    }
    ground.load(RATE, 0)?;
    ground.answers(30, BACK).await?;
    ground.judge(vec![one]).await
}

async fn storm(ground: &Ground, fault: Fault) -> Result<Figures> {
    let (one, two) = (ground.replica().await?, ground.replica().await?);
    ground.load(RATE, BURST)?;
    ground.answers(10, BACK).await?;
    ground.emulator.fault(&ground.token, fault.times(8))?;
    ground.answers(60, BACK).await?;
    ground.judge(vec![one, two]).await
}

async fn get_me_502(ground: &Ground) -> Result<Figures> {
    ground.emulator.fault(&ground.token, Fault::new("getMe", FaultKind::Html(502)).times(4))?;
    let one = ground.replica().await?;
    ground.load(RATE, 0)?;
    ground.answers(20, BACK).await?;
    ground.judge(vec![one]).await
}

async fn postgres_away(ground: &Ground) -> Result<Figures> {
    let (one, two) = (ground.replica().await?, ground.replica().await?);
    ground.load(RATE, BURST)?;
    ground.answers(10, BACK).await?;
    ground.database().stop().await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    ground.database().start_again().await?;
    ground.answers(60, BACK).await?;
    ground.judge(vec![one, two]).await
}

async fn gate_restart(ground: &Ground) -> Result<Figures> {
    let Replica { agent, bot } = ground.replica().await?;
    let Some(agent) = agent else { bail!("there is no gate") };
    ground.load(RATE, 0)?;
    ground.answers(10, BACK).await?;
    let pod = agent.pod.clone();
    agent.kill().await;
    let agent = Some(pod.start());
    ground.answers(30, BACK).await?;
    ground.judge(vec![Replica { agent, bot }]).await
}

async fn bot_restart(ground: &Ground, runs: u32) -> Result<Figures> {
    let one = ground.replica().await?;
    ground.load(RATE, BURST)?;
    ground.answers(10, BACK).await?;
    for _ in 0..runs {
        hands_full(ground).await?;
        one.bot.kill();
        ground.answers(20, BACK).await?;
    }
    ground.judge(vec![one]).await
}

async fn backlog(ground: &Ground) -> Result<Figures> {
    ground.emulator.push(&ground.token, Push { count: 100, ..Push::default() })?;
    let old = ground.replica().await?;
    ground.answers(10, BACK).await?;
    let new = ground.replica().await?;
    ground.delete(old).await?;
    ground.judge(vec![new]).await
}

/// Calls a method as a bot or a person would.
async fn call(api: &str, token: &str, method: &str) -> Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::get(format!("{api}/bot{token}/{method}")).body(Full::default())?;
    client.request(request).await?.into_body().collect().await?;
    Ok(())
}
