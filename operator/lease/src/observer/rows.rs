//! Rows of a bot as one JSON value, and what becomes of them.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{BotView, Candidate, Handover, LeaseRow, Party, Setting};
use crate::identity::{BotKey, Replica};
use crate::view::{DrainReport, Request};

macro_rules! view_of {
    ($which:literal) => {
        concat!(
            "WITH mine AS (",
            $which,
            ")
SELECT jsonb_build_object(
    'bot', jsonb_build_object('bot_id', l.bot_id, 'server', l.server),
    'lease', jsonb_build_object(
        'epoch', l.epoch, 'renew_seq', l.renew_seq, 'ttl_ms', l.ttl_ms, 'holder', l.holder,
        'replica', jsonb_build_object('cluster', coalesce(l.cluster, ''), 'namespace', coalesce(l.namespace, ''),
            'name', coalesce(l.name, ''), 'pod', coalesce(l.pod, ''), 'pod_uid', coalesce(l.pod_uid, ''),
            'node', coalesce(l.node, ''), 'revision', coalesce(l.revision, '')),
        'since', (extract(epoch FROM l.since) * 1000000)::bigint,
        'fresh', coalesce(l.holder IS NOT NULL AND l.expires_at > clock_timestamp(), false),
        'expires_at', (extract(epoch FROM l.expires_at) * 1000000)::bigint,
        'handover_expected', l.handover_expected),
    'candidates', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'party', pollux.party(c), 'ready', c.ready, 'leaving', c.leaving,
            'age_us', greatest(0, extract(epoch FROM clock_timestamp() - c.beat_at) * 1000000)::bigint, 'report', c.report)
            ORDER BY c.pod, c.id), '[]')
        FROM pollux.candidate c WHERE c.tenant = l.tenant AND c.bot_id = l.bot_id AND c.server = l.server),
    'last_handover', (SELECT jsonb_build_object(
            'epoch', h.epoch, 'at', (extract(epoch FROM h.at) * 1000000)::bigint, 'from', h.from_party, 'to', h.to_party,
            'reason', h.reason, 'evidence', h.evidence, 'drain_ms', h.drain_ms, 'drain_outcome', h.drain_outcome,
            'unacknowledged', h.unacknowledged, 'owed', h.owed,
            'gap_us', h.old_us + coalesce(h.idle_us, 0) + h.new_us)
        FROM pollux.handover h WHERE h.tenant = l.tenant AND h.bot_id = l.bot_id AND h.server = l.server ORDER BY h.epoch DESC LIMIT 1),
    'setting', (SELECT jsonb_build_object('generation', t.generation, 'eligible', t.eligible, 'json', t.json)
        FROM pollux.setting t WHERE t.cluster = $1 AND t.namespace = $2 AND t.name = $3),
    'request', (SELECT jsonb_build_object('id', r.id, 'toPod', r.to_pod)
        FROM pollux.request r WHERE r.cluster = $1 AND r.namespace = $2 AND r.name = $3))
FROM pollux.lease l JOIN mine USING (tenant, bot_id, server)"
        )
    };
}

/// The bot of the resource's newest agent. Only the namespace's own tenant is believed.
pub(super) const BY_CANDIDATE: &str = view_of!(
    "SELECT c.tenant, c.bot_id, c.server FROM pollux.candidate c WHERE c.cluster = $1 AND c.namespace = $2 AND c.name = $3
        AND c.tenant = coalesce((SELECT p.tenant FROM pollux.scope p WHERE p.cluster = $1 AND p.namespace = $2), '')
     ORDER BY c.beat_at DESC LIMIT 1"
);

/// The bot whose last holder was of this resource. No index serves it, because holders change; it is asked when no agent is
/// there.
pub(super) const BY_LEASE: &str = view_of!(
    "SELECT o.tenant, o.bot_id, o.server FROM pollux.lease o WHERE o.cluster = $1 AND o.namespace = $2 AND o.name = $3
        AND o.tenant = coalesce((SELECT p.tenant FROM pollux.scope p WHERE p.cluster = $1 AND p.namespace = $2), '')
     ORDER BY coalesce(o.since, o.released_at) DESC NULLS LAST LIMIT 1"
);

/// Counted as the server does: in all databases.
pub(super) const FULL_LOGINS: &str = "
SELECT r.rolname::text, r.rolconnlimit
  FROM pg_roles r JOIN pg_auth_members m ON m.member = r.oid AND m.roleid = to_regrole('pollux_agent')
 WHERE r.rolcanlogin AND r.rolconnlimit >= 0
   AND (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid) >= r.rolconnlimit
 ORDER BY r.rolname";

/// What the slow poll compares: everything that a controller would want to know of, and what happens without a write.
pub(super) const FINGERPRINTS: &str = "
SELECT c.cluster, c.namespace, c.name,
       md5(string_agg(concat_ws('|', c.id, c.ready, c.leaving, c.beat_at < clock_timestamp() - interval '5 s', md5(c.report::text),
           l.epoch, l.holder, l.handover_expected, l.expires_at < clock_timestamp()), ',' ORDER BY c.id))
  FROM pollux.candidate c JOIN pollux.lease l USING (tenant, bot_id, server)
 GROUP BY c.cluster, c.namespace, c.name";

#[derive(Debug, Deserialize)]
pub(super) struct BotRow {
    bot: BotKey,
    lease: Lease,
    candidates: Vec<Agent>,
    last_handover: Option<Change>,
    setting: Option<Settings>,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
struct Lease {
    epoch: i64,
    renew_seq: i64,
    ttl_ms: u64,
    holder: Option<String>,
    replica: Replica,
    since: Option<i64>,
    fresh: bool,
    expires_at: Option<i64>,
    handover_expected: bool,
}

#[derive(Debug, Deserialize)]
struct Run {
    id: Option<String>,
    #[serde(flatten)]
    replica: Replica,
}

#[derive(Debug, Deserialize)]
struct Agent {
    party: Run,
    ready: bool,
    leaving: bool,
    age_us: u64,
    report: Value,
}

#[derive(Debug, Deserialize)]
struct Change {
    epoch: i64,
    at: i64,
    from: Option<Run>,
    to: Option<Run>,
    reason: String,
    evidence: String,
    drain_ms: Option<i64>,
    drain_outcome: Option<String>,
    unacknowledged: Option<i64>,
    owed: Option<i64>,
    gap_us: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Settings {
    generation: i64,
    eligible: Option<Vec<String>>,
    json: Value,
}

impl From<BotRow> for BotView {
    fn from(row: BotRow) -> Self {
        let BotRow { bot, lease, candidates, last_handover, setting, request } = row;
        Self {
            bot,
            lease: lease.into(),
            candidates: candidates.into_iter().map(Into::into).collect(),
            last_handover: last_handover.map(Into::into),
            setting: setting.map(|Settings { generation, eligible, json }| Setting { generation, eligible, json }),
            request,
        }
    }
}

impl From<Lease> for LeaseRow {
    fn from(row: Lease) -> Self {
        let replica = row.replica;
        Self {
            epoch: row.epoch,
            renew_seq: row.renew_seq,
            ttl: Duration::from_millis(row.ttl_ms),
            holder: row.holder.map(|id| Party { id, replica }),
            since: row.since.and_then(time),
            fresh: row.fresh,
            expires_at: row.expires_at.and_then(time),
            handover_expected: row.handover_expected,
        }
    }
}

impl From<Run> for Party {
    fn from(row: Run) -> Self {
        Self { id: row.id.unwrap_or_default(), replica: row.replica }
    }
}

impl From<Agent> for Candidate {
    fn from(row: Agent) -> Self {
        Self {
            party: row.party.into(),
            ready: row.ready,
            leaving: row.leaving,
            beat_age: Duration::from_micros(row.age_us),
            report: row.report,
        }
    }
}

impl From<Change> for Handover {
    fn from(row: Change) -> Self {
        Self {
            epoch: row.epoch,
            time: time(row.at).unwrap_or(Timestamp::UNIX_EPOCH),
            from: row.from.map(Into::into),
            to: row.to.map(Into::into),
            reason: row.reason,
            evidence: row.evidence,
            drain: row.drain_ms.map(|ms| DrainReport {
                took: Duration::from_millis(ms.try_into().unwrap_or(0)),
                outcome: row.drain_outcome.unwrap_or_default(),
                unacknowledged: count(row.unacknowledged),
                owed: count(row.owed),
            }),
            // Measured durations may come out negative (pollux.gap); a log's entry must not make a bot's row unreadable.
            gap: row.gap_us.map(|us| Duration::from_micros(us.try_into().unwrap_or(0))),
        }
    }
}

fn count(updates: Option<i64>) -> u32 {
    updates.unwrap_or_default().try_into().unwrap_or(0)
}

fn time(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds).ok()
}
