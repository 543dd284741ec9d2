//! Faults of the database itself. All who take part are hit at once, so what counts is how soon somebody leads after its end.

use std::time::Duration;

use anyhow::{Result, ensure};
use pollux_lease::BootInstant;
use pollux_postgres::Stop;
use tokio::time::{sleep, timeout};

use super::{DidNotTake, Schedule};
use crate::plan::{Fault, Group, Kind};

impl Schedule<'_> {
    /// Returns when the database is back, and from when on it is; and until when it stays different all the same.
    pub(super) async fn hit_the_database(&mut self, fault: &Fault) -> Result<(BootInstant, Option<BootInstant>)> {
        if fault.kind.group() == Group::Incarnation {
            return Ok((self.go_back(fault).await?, None));
        }
        if fault.kind == Kind::DatabaseClock {
            let since = BootInstant::now();
            // The database is asked for the time in there.
            self.lane.server.shift_wall_clock(fault.hours)?;
            return Ok((since, Some(since + fault.hold)));
        }
        if fault.kind == Kind::EndSessions {
            let since = BootInstant::now();
            let end = "SELECT FROM pg_stat_activity WHERE application_name = 'pollux-lock' HAVING count(pg_terminate_backend(pid)) > 0";
            ensure!(self.lane.query(end).await?.is_some(), DidNotTake("there is no session".into()));
            return Ok((since, None));
        }
        if fault.kind == Kind::DatabaseFreeze {
            self.lane.server.freeze();
            self.stays_silent(fault.hold).await?;
            self.lane.server.thaw();
            return Ok((BootInstant::now(), None));
        }
        match fault.kind {
            Kind::DatabaseFast => self.lane.server.stop(Stop::Fast)?,
            Kind::DatabaseImmediate => self.lane.server.stop(Stop::Immediate)?,
            _ => self.lane.server.kill()?,
        }
        self.stays_silent(fault.hold).await?;
        self.lane.server.start_again()?;
        Ok((BootInstant::now(), None))
    }

    /// Waits as long, and the database must not answer.
    async fn stays_silent(&mut self, hold: Duration) -> Result<()> {
        let end = BootInstant::now() + hold;
        let answer = timeout(hold, self.lane.query("SELECT")).await;
        ensure!(!matches!(answer, Ok(Ok(_))), DidNotTake("the database answers".into()));
        sleep(end - BootInstant::now()).await;
        Ok(())
    }
}
