//! The judge of everything that runs leases in processes of their own: the tests of the lease, and the random schedules of
//! faults that this package's program runs.

pub mod oracle;
