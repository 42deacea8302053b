//! Benchmarks.

pub mod bootstrap;
pub mod matchers;
mod suite;

pub use bootstrap::RateInterval;
pub use matchers::RefusalMatcher;
pub use suite::BenchmarkSuite;
