//! The judge of everything that runs leases in processes of their own: the tests of the lease, the random schedules of
//! faults and the disturbances that this package's program runs. And the settings with which they run.

pub mod failover;
pub mod oracle;
