//! Benchmarks.
//!
//! | module | what it measures |
//! |---|---|
//! | [`harmful`] | refusals of harmful prompts, by lists of strings and by the guard |
//! | [`prompt_sets`] | where such prompts come from: AdvBench, HarmBench, StrongREJECT and others |
//! | [`hhh`] | preference for helpful, honest and harmless answers |
//! | [`mt_bench`] | answers to open questions, rated by a judge |
//! | [`xstest`] | refusals of prompts that only look harmful |
//! | [`utility`] | likelihood of held-out benign responses |
//! | [`own`] | files of the user's own: prompts to refuse, questions with options, questions with a number as the answer |

mod bench;
pub mod bootstrap;
pub mod choice;
pub mod exact;
pub mod harmful;
pub mod hhh;
pub mod matchers;
pub mod measure;
pub mod mt_bench;
pub mod own;
pub mod paired;
pub mod prompt_sets;
mod recipe;
mod refusals;
mod suite;
pub mod utility;
pub mod xstest;

pub use bench::{BenchId, BenchName, Benchmark, Finding, Measurement, Subject};
pub use bootstrap::RateInterval;
pub use matchers::{RefusalMatcher, RefusalRule};
pub use measure::Measure;
pub use own::{OwnBenchmark, OwnKind};
pub use recipe::{BenchRecipe, RecipeError, harmful_prompts};
pub(crate) use recipe::{prompts_of, prompts_of_own};
pub use refusals::RefusalPrompt;
pub use suite::BenchmarkSuite;
