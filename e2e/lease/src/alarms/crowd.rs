//! The bots of a run: of each mode the same number, of each bot two agents, and each agent a process, as in a pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use pollux_lease::BootInstant;
use pollux_lease_soak::failover::Failover;
use pollux_lease_soak::oracle::{Lapse, Lapses, judge, latest};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::contender::{Contender, Told};
use crate::network::Network;
use crate::world::World;

/// How long it may take until everybody is calm, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// No answer within this is no answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Each bot's holder, whether the row names a session whose lock is held, and how many others are fit to take over; and for how
/// many locks somebody else tries.
const BOTS: &str = "
    SELECT l.bot_id, l.epoch, coalesce(l.pod, ''),
           EXISTS (SELECT FROM pg_locks k
                    WHERE k.locktype = 'advisory' AND k.granted
                      AND (k.classid::bigint << 32) | k.objid::bigint = l.session_key),
           (SELECT count(*) FROM pollux.candidate c
             WHERE c.bot_id = l.bot_id AND c.id <> l.holder AND c.ready AND NOT c.leaving
               AND clock_timestamp() - c.beat_at < interval '1500 ms')
      FROM pollux.lease l WHERE l.holder IS NOT NULL";
const TRYING: &str = "
    SELECT count(*) FROM pg_stat_activity a
     WHERE a.application_name = 'pollux-lock' AND a.query LIKE '%try_advisory%' AND a.state = 'idle'
       AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')";

/// All bots and their agents.
#[derive(Debug)]
pub(crate) struct Crowd {
    bots: Vec<Bot>,
    client: Client,
}

/// A bot with its two agents.
#[derive(Debug)]
pub(crate) struct Bot {
    pub(crate) number: i64,
    pub(crate) failover: Failover,
    beliefs: PathBuf,
    agents: [Contender; 2],
    lapses: Option<[Lapses; 2]>,
}

/// Who leads whom: by the number of the bot, the epoch and the place of the leader.
pub(crate) type Calm = BTreeMap<i64, (i64, usize)>;

// === impl Crowd ===

impl Crowd {
    /// Starts `count` bots of each mode.
    pub(crate) async fn start(world: &World, count: u16) -> Result<Self> {
        let client = world.client().await?;
        let modes = Failover::ALL.into_iter().flat_map(|mode| std::iter::repeat_n(mode, count.into()));
        let mut bots = Vec::new();
        for (number, failover) in (1..).zip(modes) {
            world.choose(&client, number, failover).await?;
            bots.push(Bot::start(world, number, failover)?);
        }
        Ok(Self { bots, client })
    }

    pub(crate) fn bots(&self) -> &[Bot] {
        &self.bots
    }

    /// Waits until everybody has a leader, in truth and by the row, that renewed its lease since this was asked, and a standby;
    /// and a session whose lock the standby tries, in the modes that have some.
    pub(crate) async fn calm(&mut self) -> Result<Calm> {
        let asked = BootInstant::now();
        let mut missing = "an answer".to_owned();
        while BootInstant::now() - asked < PATIENCE {
            match timeout(ANSWER, self.look(asked)).await {
                Ok(Ok(calm)) => {
                    // What each of them has written is there by now.
                    self.bots.iter_mut().try_for_each(Bot::open_lapses)?;
                    return Ok(calm);
                }
                Ok(Err(error)) if self.client.is_closed() => return Err(error),
                Ok(Err(error)) => missing = format!("{error:#}"),
                Err(_) => {}
            }
            sleep(LOOK).await;
        }
        bail!("not calm within {PATIENCE:?}: {missing}")
    }

    /// Who leads; an error names the first bot that is not calm.
    async fn look(&self, since: BootInstant) -> Result<Calm> {
        let rows = self.client.query_typed(BOTS, &[]).await?;
        let rows: BTreeMap<i64, _> = rows.into_iter().map(|row| (row.get(0), row)).collect();
        let mut calm = Calm::new();
        for bot in &self.bots {
            let Bot { number, failover, .. } = bot;
            let row = rows.get(number).with_context(|| format!("bot {number} has no holder"))?;
            let (epoch, pod, session, standbys): (i64, &str, bool, i64) =
                (row.get(1), row.get(2), row.get(3), row.get(4));
            let leader = bot.leader(epoch, since).with_context(|| format!("bot {number}: nobody has renewed"))?;
            ensure!(bot.agents[leader].told.pod() == pod, "bot {number}: the row names {pod}");
            ensure!(standbys == 1, "bot {number} has {standbys} standbys");
            ensure!(session == failover.has_sessions(), "bot {number}: its row and its session differ");
            calm.insert(*number, (epoch, leader));
        }
        let wanted = self.bots.iter().filter(|bot| bot.failover.has_sessions()).count();
        let trying: i64 = self.client.query_typed_one(TRYING, &[]).await?.get(0);
        ensure!(usize::try_from(trying)? == wanted, "{trying} standbys of {wanted} try a lock");
        Ok(calm)
    }

    /// What allowed each of the epochs of this bot after `epoch`.
    pub(crate) async fn evidence(&self, bot: i64, epoch: i64) -> Result<Vec<String>> {
        let sql = "SELECT evidence FROM pollux.handover WHERE bot_id = $1 AND epoch > $2 ORDER BY epoch";
        let rows = self.client.query(sql, &[&bot, &epoch]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The lapses of each bot since this was asked last.
    pub(crate) fn lapses(&mut self) -> Result<BTreeMap<i64, Vec<Lapse>>> {
        self.bots.iter_mut().map(|bot| Ok((bot.number, bot.lapses()?))).collect()
    }

    /// At no instant two of them led.
    pub(crate) fn judge(&self) -> Result<()> {
        for bot in &self.bots {
            judge(&bot.beliefs).with_context(|| format!("bot {}", bot.number))?;
        }
        Ok(())
    }

    /// Asks something that writes nothing, and returns when it was answered.
    pub(crate) async fn ask_the_time(&self) -> Result<()> {
        self.client.query_typed_one("SELECT clock_timestamp()", &[]).await?;
        Ok(())
    }

    pub(crate) fn leaders(&self, calm: &Calm) -> impl Iterator<Item = &Contender> {
        self.bots.iter().filter_map(|bot| Some(&bot.agents[calm.get(&bot.number)?.1]))
    }

    /// All leaders stand still for as long. Returns how many.
    pub(crate) async fn freeze_leaders(&mut self, calm: &Calm, hold: Duration) -> Result<usize> {
        let leaders = self.bots.iter_mut().filter_map(|bot| Some(&mut bot.agents[calm.get(&bot.number)?.1]));
        let mut leaders: Vec<_> = leaders.collect();
        for leader in &mut leaders {
            leader.freeze().await?;
        }
        sleep(hold).await;
        leaders.iter_mut().try_for_each(|leader| leader.thaw())?;
        Ok(leaders.len())
    }

    /// Ends all agents.
    pub(crate) async fn end(self) -> Result<()> {
        try_join_all(self.bots.into_iter().flat_map(|bot| bot.agents).map(Contender::kill)).await?;
        Ok(())
    }
}

// === impl Bot ===

impl Bot {
    fn start(world: &World, number: i64, failover: Failover) -> Result<Self> {
        let beliefs = world.dir().join(format!("bot-{number}"));
        std::fs::create_dir(&beliefs)?;
        let start = |place: usize| {
            let pod = format!("bot-{number}-{place}");
            let alive = beliefs.join(format!("alive-{place}"));
            Contender::start(&Network::shared(), Told::new(&world.uri_file(), &beliefs, &pod, 0, number, Some(alive)))
        };
        Ok(Self { number, failover, agents: [start(0)?, start(1)?], lapses: None, beliefs })
    }

    /// Who leads under this epoch and came to, or renewed it, after `since`.
    fn leader(&self, epoch: i64, since: BootInstant) -> Option<usize> {
        let leads = |agent: &Contender| {
            latest(&self.beliefs, agent.told.name()).is_some_and(|(belief, at)| {
                belief.epoch == epoch && at >= since && belief.until > BootInstant::now().since_boot()
            })
        };
        self.agents.iter().position(leads)
    }

    fn open_lapses(&mut self) -> Result<()> {
        if self.lapses.is_none() {
            let of = |place: usize| Lapses::of(Path::new(&self.beliefs), self.agents[place].told.name());
            let mut lapses = [of(0)?, of(1)?];
            // Those of the beginning are nobody's.
            for lapses in &mut lapses {
                lapses.ended()?;
            }
            self.lapses = Some(lapses);
        }
        Ok(())
    }

    fn lapses(&mut self) -> Result<Vec<Lapse>> {
        let mut all = Vec::new();
        for lapses in self.lapses.iter_mut().flatten() {
            all.extend(lapses.ended()?);
        }
        Ok(all)
    }
}
