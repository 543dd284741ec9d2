//! A timer of the clock that fences are measured with: it rings at once when a machine that slept goes on, where others would
//! still wait for what they had left.

use std::io;
use std::os::fd::OwnedFd;

use pollux_clock::BootInstant;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

pub(super) struct Timer {
    fd: AsyncFd<OwnedFd>,
    set: Option<BootInstant>,
}

// === impl Timer ===

impl Timer {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types whose descriptor may change; an OwnedFd keeps its own"
    )]
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { fd: AsyncFd::new(timerfd_create(TimerfdClockId::Boottime, flags)?)?, set: None })
    }

    pub(super) fn set(&mut self, at: Option<BootInstant>) -> io::Result<()> {
        self.set = at;
        // Zero would switch it off.
        let since_boot = at.map(|at| at.since_boot().max(std::time::Duration::from_nanos(1))).unwrap_or_default();
        let it_value = Timespec {
            tv_sec: i64::try_from(since_boot.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since_boot.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    pub(super) async fn rings(&self) {
        let Some(at) = self.set else {
            return std::future::pending().await;
        };
        while BootInstant::now() < at {
            match self.fd.readable().await {
                // Setting it anew makes it unreadable.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }
}
