//! One schedule: contenders of one bot, one fault after the other, and after each the question who leads.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pollux_lease::BootInstant;
use pollux_lease_soak::oracle::{Belief, Violation, died, judge, latest};
use pollux_postgres::Proxy;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::contender::{Contender, Told};
use crate::lane::{DATABASE, Lane};
use crate::plan::{Fault, Plan, TTL};
use crate::report::{Outcome, Sample};

mod database;
mod incarnation;
mod inject;

/// A schedule in which fewer epochs were led has shown nothing.
const FEWEST_EPOCHS: usize = 3;
/// How often a fault that did not take is tried.
const TRIES: usize = 10;
/// How often it is looked who leads.
const LOOK: Duration = Duration::from_millis(3);
/// The longest time until a standby that lost its connection long ago is back, and then some.
const CALM: Duration = Duration::from_secs(20);
/// No schedule takes this long.
const LIMIT: Duration = Duration::from_secs(300);
/// These pods have a lock file, and restart.
const RESTARTABLE: usize = 2;

/// A fault that had no effect: to be tried again, and never to be counted.
#[derive(Debug, thiserror::Error)]
#[error("{0}: it did not take")]
struct DidNotTake(String);

/// What is under way.
struct Schedule<'a> {
    lane: &'a mut Lane,
    bot: i64,
    /// Failover by sessions.
    fast: bool,
    began: BootInstant,
    dir: TempDir,
    proxies: Vec<Proxy>,
    contenders: Vec<Contender>,
    /// Pods that were ever made.
    pods: usize,
    /// Processes that were ever started again in each one's place.
    runs: Vec<usize>,
    /// The longest TTL that may be in use.
    longest: Duration,
    /// What happened, for whoever has to find out why.
    diary: Vec<String>,
    samples: Vec<Sample>,
    /// How many epochs have been led.
    led: usize,
}

/// Somebody leads, and others could take over.
#[derive(Clone, Debug)]
struct Calm {
    leader: usize,
    epoch: i64,
    /// At least one. Whoever lost its connection long ago may take seconds to come back, and is none of them.
    standbys: Vec<usize>,
}

/// A fault that has begun.
struct Begun {
    /// From when on leadership has to be confirmed anew.
    since: BootInstant,
    /// When it ends; `None` if it is over already.
    until: Option<BootInstant>,
    /// Whose leadership does not count while it lasts, unless it is a later one.
    without: Option<usize>,
    /// The epoch that was led under.
    epoch: i64,
    /// Whose fault it is, if it hit a contender.
    victim: usize,
    /// Whether that was the leader.
    leader: bool,
    /// The count of effects at the beginning.
    effects: usize,
}

/// Runs a schedule to its end, or to the first thing that must not be.
pub(crate) async fn run(lane: &mut Lane, seed: u64, plan: &Plan) -> Outcome {
    let began = BootInstant::now();
    let mut outcome = Outcome { seed, ..Outcome::default() };
    match Schedule::new(lane, seed, plan).await {
        Ok(mut schedule) => {
            let done = timeout(LIMIT, schedule.all(plan)).await.context("it does not end").flatten();
            outcome.samples = std::mem::take(&mut schedule.samples);
            // Whatever else went wrong: what must not be counts most.
            let judged = schedule.judge();
            outcome.epochs = judged.as_ref().map_or(0, |verdict| verdict.epochs.len());
            let failure = match (judged, done) {
                (Err(violation), _) => {
                    outcome.overlap = matches!(violation, Violation::Overlap { .. });
                    outcome.stale_epoch = matches!(violation, Violation::Epoch { .. });
                    Some(violation.to_string())
                }
                (Ok(_), Err(error)) => Some(format!("{error:#}")),
                (Ok(_), Ok(())) if outcome.epochs < FEWEST_EPOCHS => {
                    Some(format!("only {} epochs were led", outcome.epochs))
                }
                (Ok(_), Ok(())) => None,
            };
            outcome.failure = failure;
            outcome.diary = std::mem::take(&mut schedule.diary);
        }
        Err(error) => outcome.failure = Some(format!("{error:#}")),
    }
    outcome.took = (BootInstant::now() - began).as_secs_f64();
    outcome
}

// === impl Schedule ===

impl<'a> Schedule<'a> {
    async fn new(lane: &'a mut Lane, seed: u64, plan: &Plan) -> Result<Self> {
        let port = lane.server.port();
        let proxies = lane.networks.iter().take(plan.contenders).map(|net| Proxy::start_at(net.address(), port));
        let mut schedule = Self {
            proxies: proxies.collect::<std::io::Result<_>>()?,
            lane,
            bot: i64::try_from(seed).context("seeds are small numbers")? + 1,
            fast: plan.fast,
            began: BootInstant::now(),
            dir: tempfile::tempdir()?,
            contenders: Vec::new(),
            pods: 0,
            runs: vec![0; plan.contenders],
            longest: TTL,
            diary: Vec::new(),
            samples: Vec::new(),
            led: 0,
        };
        schedule.put_setting(TTL).await?;
        schedule.note(format!("failover: {}", schedule.failover()));
        for place in 0..plan.contenders {
            let contender = schedule.start_in_a_new_pod(place)?;
            schedule.contenders.push(contender);
        }
        Ok(schedule)
    }

    async fn all(&mut self, plan: &Plan) -> Result<()> {
        let mut calm = self.calm().await.context("at the beginning")?;
        self.led = self.judge()?.epochs.len();
        for fault in &plan.faults {
            for tries in 1.. {
                match self.one(fault, &calm).await {
                    Ok(next) => {
                        calm = next;
                        break;
                    }
                    Err(error) if error.is::<DidNotTake>() && tries < TRIES => {
                        self.note(format!("{error:#}, once more"));
                        calm = self.calm().await?;
                    }
                    Err(error) => return Err(error.context(fault.kind.word())),
                }
            }
        }
        Ok(())
    }

    /// One fault from calm to calm.
    async fn one(&mut self, fault: &Fault, before: &Calm) -> Result<Calm> {
        self.note(format!("{} (epoch {}, led by {})", fault.kind.word(), before.epoch, self.name(before.leader)));
        let begun = self.begin(fault, before).await?;
        let back = self.ride_out(fault, &begun).await?;
        self.check_effect(fault, &begun).await?;
        let calm = self.calm().await?;
        self.note(format!(
            "{} leads after {} ms, calm at epoch {}",
            self.name(calm.leader),
            back.as_millis(),
            calm.epoch
        ));
        let led = self.judge()?.epochs.len();
        self.samples.push(Sample { kind: fault.kind, leader: begun.leader, back, changes: led - self.led });
        self.led = led;
        Ok(calm)
    }

    /// Waits until somebody leads again and the fault is over, and says how long the former took.
    async fn ride_out(&mut self, fault: &Fault, begun: &Begun) -> Result<Duration> {
        let bound = fault.kind.bound(self.longest);
        let (mut back, mut lasting, mut ended) = (None, begun.until, None);
        loop {
            let now = BootInstant::now();
            if lasting.is_some_and(|until| now >= until) {
                self.end(fault, begun)?;
                (lasting, ended) = (None, Some(now));
            }
            // What the victim believes from before the end counts for nothing: nobody else could see it renewed.
            let victim = begun.without.zip(ended).is_some_and(|(victim, ended)| self.leads(victim, ended));
            if back.is_none() && (victim || self.leads_again(begun)) {
                back = Some(now - begun.since);
            }
            match back {
                Some(back) if lasting.is_none() => return Ok(back),
                None if now - begun.since > bound => bail!("nobody leads after {bound:?}"),
                _ => sleep(LOOK).await,
            }
        }
    }

    /// Who leads, but for `without`.
    fn leader(&self, without: Option<usize>, since: BootInstant) -> Option<usize> {
        (0..self.contenders.len()).find(|place| Some(*place) != without && self.leads(*place, since))
    }

    /// Whether somebody leads after a fault. Also its victim, if it has come to lead anew: a lease that was handed to somebody
    /// who had just died may well be taken by whoever gave it.
    fn leads_again(&self, begun: &Begun) -> bool {
        let anew = |place| self.belief(place, begun.since).is_some_and(|belief| belief.epoch > begun.epoch);
        self.leader(begun.without, begun.since).is_some() || begun.without.is_some_and(anew)
    }

    fn leads(&self, place: usize, since: BootInstant) -> bool {
        self.belief(place, since).is_some()
    }

    /// What this contender believes, if it is that it leads, and if it came to believe it or renewed it after `since`.
    fn belief(&self, place: usize, since: BootInstant) -> Option<Belief> {
        let belief = latest(self.beliefs(), self.name(place)).filter(|_| !self.contenders[place].is_frozen());
        let now = BootInstant::now().since_boot();
        belief.filter(|(belief, at)| *at >= since && belief.until > now).map(|(belief, _)| belief)
    }

    /// Waits until somebody leads, in truth and by the row, and somebody else is fit to take over.
    async fn calm(&mut self) -> Result<Calm> {
        let sql = format!(
            "SELECT l.pod, l.epoch, ARRAY(
                SELECT c.pod FROM pollux.candidate c
                 WHERE c.bot_id = l.bot_id AND c.id <> l.holder AND c.ready AND NOT c.leaving
                   AND abs(extract(epoch FROM clock_timestamp() - c.beat_at)) < 0.3)
             FROM pollux.lease l WHERE l.bot_id = {} AND l.holder IS NOT NULL",
            self.bot
        );
        let asked = BootInstant::now();
        loop {
            let leader = self.leader(None, asked);
            if let (Some(leader), Ok(Some(row))) = (leader, self.lane.query(&sql).await)
                && row.get::<_, &str>(0) == self.contenders[leader].told.pod()
                && latest(self.beliefs(), self.name(leader))
                    .is_some_and(|(belief, _)| belief.epoch == row.get::<_, i64>(1))
            {
                let fit: Vec<&str> = row.get(2);
                let standbys = (0..self.contenders.len()).filter(|n| fit.contains(&self.contenders[*n].told.pod()));
                let calm = Calm { leader, epoch: row.get(1), standbys: standbys.filter(|n| *n != leader).collect() };
                if !calm.standbys.is_empty() {
                    return Ok(calm);
                }
            }
            ensure!(BootInstant::now() - asked < CALM, "no leader with a standby within {CALM:?}");
            sleep(LOOK * 3).await;
        }
    }

    fn judge(&self) -> Result<pollux_lease_soak::oracle::Verdict, Violation> {
        judge(self.beliefs())
    }

    fn start_in_a_new_pod(&mut self, place: usize) -> Result<Contender> {
        let pod = format!("p{}", self.pods);
        self.pods += 1;
        self.runs[place] = 0;
        self.start(place, &pod)
    }

    /// Starts another process of this pod.
    fn start_again(&mut self, place: usize) -> Result<Contender> {
        self.runs[place] += 1;
        let pod = self.contenders[place].told.pod().to_owned();
        self.start(place, &pod)
    }

    fn start(&self, place: usize, pod: &str) -> Result<Contender> {
        let uri_file = self.dir.path().join(format!("uri{place}"));
        let (network, proxy) = (&self.lane.networks[place], &self.proxies[place]);
        let uri = format!("postgresql://postgres@{}:{}/{DATABASE}", network.address(), proxy.port());
        std::fs::write(&uri_file, uri)?;
        let alive = (place < RESTARTABLE).then(|| self.dir.path().join(format!("alive-{pod}")));
        Contender::start(network, Told::new(&uri_file, self.beliefs(), pod, self.runs[place], self.bot, alive))
    }

    /// kill -9 of the contender in this place, for which `next` comes.
    async fn replace(&mut self, place: usize, next: Contender) -> Result<BootInstant> {
        let victim = std::mem::replace(&mut self.contenders[place], next);
        let name = victim.told.name().to_owned();
        let at = victim.kill().await?;
        match died(self.beliefs(), &name, at) {
            // It had not yet begun.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
        Ok(at)
    }

    fn beliefs(&self) -> &Path {
        self.dir.path()
    }

    fn name(&self, place: usize) -> &str {
        self.contenders[place].told.name()
    }

    fn note(&mut self, what: String) {
        let at = BootInstant::now() - self.began;
        self.diary.push(format!("{:>7.3} {what}", at.as_secs_f64()));
    }
}
