//! The benchmarks of a run behind the actors' port.

use std::{collections::BTreeSet, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::{Benchmarks, Evaluation, EvaluationScope, PortResult},
    protocol::{GlobalModel, RoundId},
};

use super::{Benchmark, Subject};
use crate::{lora::LoraRef, model::ChatModel, progress::Progress};

/// What is measured of an adapter, on rows that no client and no defence trains on.
pub struct BenchmarkSuite {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The benchmarks by their names, in the order of their work.
    pub benchmarks: Vec<(String, Box<dyn Benchmark>)>,
    /// Benchmarks of the program that runs the experiment, measured behind those, whenever anything is.
    pub extensions: Vec<Arc<dyn Benchmark>>,
    /// Those of `benchmarks` that are measured between rounds.
    pub interim_benches: BTreeSet<String>,
    /// Prompts of each benchmark between rounds, at most.
    pub interim_prompts: usize,
    /// What all random streams come from.
    pub seed: u64,
    /// Hears how far an evaluation is.
    pub progress: Arc<dyn Progress>,
}

impl Benchmarks for BenchmarkSuite {
    fn evaluate(
        &self,
        _: RoundId,
        global: &GlobalModel,
        scope: EvaluationScope,
        cancel: &CancelFlag,
    ) -> PortResult<Evaluation> {
        let is_interim = scope == EvaluationScope::Interim;
        let limit = is_interim.then_some(self.interim_prompts);
        let subject = Subject {
            model: &self.model,
            adapter: Some(LoraRef::from(global)),
            seed: self.seed,
            limit,
            cancel,
            progress: self.progress.as_ref(),
        };
        let mut evaluation = Evaluation::new();
        let meant = |name: &String| !is_interim || self.interim_benches.contains(name);
        let own = self.benchmarks.iter().filter(|(name, _)| meant(name)).map(|(_, benchmark)| benchmark.as_ref());
        for benchmark in own.chain(self.extensions.iter().map(AsRef::as_ref)) {
            let found = benchmark.measure(&subject)?;
            for warning in &found.warnings {
                tracing::warn!("{warning}");
            }
            evaluation.insert(found.name, found.score);
        }
        Ok(evaluation)
    }
}
