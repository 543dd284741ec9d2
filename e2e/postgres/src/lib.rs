//! pollux-postgres
