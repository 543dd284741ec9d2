//! pollux-testbed
