//! The guard: a safety classifier of rows.
