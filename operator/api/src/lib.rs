//! pollux-api
