//! Benchmarks.

pub mod bootstrap;
pub mod matchers;
