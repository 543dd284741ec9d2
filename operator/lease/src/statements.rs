//! The protocol's statements in SQL.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::types::{Json, ToSql, Type};

use crate::core::{Answer, Call, Known, Me, Sign, Statement};
use crate::error::Error;
use crate::identity::{BotKey, Replica, TokenDigest};
use crate::session::{Parameter, Session};
use crate::view::DrainReport;

/// Who asks, about which bot.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) bot: BotKey,
    pub(crate) token: TokenDigest,
    /// The digests to change to, one after the other: each proves to the server that the next one is rightful.
    pub(crate) new_tokens: VecDeque<TokenDigest>,
    pub(crate) me: Me,
}

#[derive(Debug, Serialize)]
struct Who {
    #[serde(flatten)]
    replica: Replica,
    locked: bool,
}

type Owned = (Box<dyn ToSql + Sync + Send>, Type);

// === impl Caller ===

impl Caller {
    /// Carries out a statement.
    pub(crate) async fn run(
        &self,
        session: &Session,
        statement: &Statement,
        patience: Duration,
    ) -> Result<Answer, Error> {
        let Statement { call, known } = statement;
        let mut with = vec![
            int8(self.bot.bot_id),
            text(self.bot.server.clone()),
            own(self.token.bytes().to_vec(), Type::BYTEA),
            text(self.me.id.as_str().to_owned()),
        ];
        with.extend(self.arguments(call, known));
        let places: Vec<_> = (1..=with.len()).map(|n| format!("${n}")).collect();
        let sql = format!("SELECT pollux.{}({})", name(call), places.join(","));
        let with: Vec<Parameter<'_>> =
            with.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect();
        let row = session.one(&sql, &with, patience).await?;
        let answer: Json<Answer> = row.try_get(0).map_err(|e| Error::Answer(e.to_string()))?;
        Ok(answer.0)
    }

    fn arguments(&self, call: &Call, known: &Known) -> Vec<Owned> {
        let incarnation = || text(known.incarnation.clone());
        match call {
            Call::Look | Call::Depart => Vec::new(),
            Call::Beat(sign) => self.sign(sign),
            Call::Renew { epoch, renew_seq, ttl, session, sign } => {
                let fence = session.map(|proof| i32::try_from(proof.fence_ms).unwrap_or(i32::MAX));
                let mut with = vec![incarnation(), int8(*epoch), int8(*renew_seq), millis(*ttl)];
                with.extend([int8(session.map(|proof| proof.key)), own(fence, Type::INT4)]);
                with.extend(self.sign(sign));
                with
            }
            Call::Acquire { epoch, ttl } => vec![incarnation(), int8(known.epoch), int8(*epoch), millis(*ttl)],
            Call::Takeover { epoch, renew_seq, evidence, ttl, vacate } => {
                vec![
                    incarnation(),
                    int8(known.epoch),
                    int8(*epoch),
                    int8(*renew_seq),
                    text(evidence.as_str()),
                    millis(*ttl),
                    own(*vacate, Type::BOOL),
                ]
            }
            Call::Expect { epoch, expected } => vec![int8(*epoch), own(*expected, Type::BOOL)],
            Call::Handover { epoch, ttl, otherwise, order } => vec![
                incarnation(),
                int8(known.epoch),
                int8(*epoch),
                millis(*ttl),
                text(order.to_pod.clone()),
                text(otherwise.as_str()),
                text(order.reason.as_str()),
                own(order.drain.as_ref().map(drained), Type::JSONB),
            ],
            Call::Gap { epoch, ago } => vec![int8(*epoch), int8(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX))],
            Call::Rotate => {
                vec![own(self.new_tokens.front().unwrap_or(&self.token).bytes().to_vec(), Type::BYTEA)]
            }
        }
    }

    fn sign(&self, sign: &Sign) -> Vec<Owned> {
        let who = Who { replica: self.me.replica.clone(), locked: sign.locked };
        vec![
            int8(sign.beat),
            own(sign.ready, Type::BOOL),
            own(sign.leaving, Type::BOOL),
            own(Json(who), Type::JSONB),
            own(sign.report.clone().map(Json), Type::JSONB),
        ]
    }
}

/// Asks once whether this login may do what agents do.
pub(crate) async fn probe(session: &Session, patience: Duration) -> Result<(), Error> {
    let digest: &[u8] = &[0; 32];
    let nobody: [Parameter<'_>; 4] =
        [(&0_i64, Type::INT8), (&"", Type::TEXT), (&digest, Type::BYTEA), (&"", Type::TEXT)];
    session.one("SELECT pollux.look($1,$2,$3,$4)", &nobody, patience).await.map(drop)
}

/// The function that a statement calls.
pub(crate) const fn name(call: &Call) -> &'static str {
    match call {
        Call::Look => "look",
        Call::Beat(_) => "beat",
        Call::Renew { .. } => "renew",
        Call::Acquire { .. } => "acquire",
        Call::Takeover { .. } => "takeover",
        Call::Expect { .. } => "expect_handover",
        Call::Handover { .. } => "handover",
        Call::Gap { .. } => "gap",
        Call::Rotate => "rotate",
        Call::Depart => "depart",
    }
}

fn drained(drain: &DrainReport) -> Json<Value> {
    let DrainReport { took, outcome, unacknowledged, owed } = drain;
    let ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    Json(json!({"ms": ms, "outcome": outcome, "unacknowledged": unacknowledged, "owed": owed}))
}

fn own(value: impl ToSql + Sync + Send + 'static, kind: Type) -> Owned {
    (Box::new(value), kind)
}

fn int8(value: impl Into<Option<i64>>) -> Owned {
    own(value.into(), Type::INT8)
}

fn text<T>(value: T) -> Owned
where
    T: ToSql + Sync + Send + 'static,
{
    own(value, Type::TEXT)
}

fn millis(ttl: Duration) -> Owned {
    own(i32::try_from(ttl.as_millis()).unwrap_or(i32::MAX), Type::INT4)
}
