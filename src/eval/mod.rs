//! Benchmarks.
//!
//! | module | what it measures |
//! |---|---|
//! | [`advbench`] | refusals of harmful prompts, by three lists and by the guard |
//! | [`hhh`] | preference for helpful, honest and harmless answers |
//! | [`mt_bench`] | answers to open questions, rated by a judge |
//! | [`xstest`] | refusals of prompts that only look harmful |
//! | [`utility`] | likelihood of held-out benign responses |

pub mod advbench;
mod bench;
pub mod bootstrap;
pub mod hhh;
pub mod matchers;
pub mod mt_bench;
pub mod paired;
mod recipe;
mod refusals;
mod suite;
pub mod utility;
pub mod xstest;

pub use bench::{BenchName, Benchmark, Finding, Measurement, Subject};
pub use bootstrap::RateInterval;
pub use matchers::RefusalMatcher;
pub(crate) use recipe::prompts_of;
pub use recipe::{BenchRecipe, RecipeError, harmful_prompts};
pub use refusals::RefusalPrompt;
pub use suite::BenchmarkSuite;
