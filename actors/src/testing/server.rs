//! Realignment and evaluation that misbehave on demand.

use std::collections::BTreeMap;

use super::{Conduct, adapter};
use crate::{
    cancel::CancelFlag,
    ports::{
        BenchmarkScore, Benchmarks, Evaluation, EvaluationScope, PortResult, Realigner, Realignment, RealignmentReport,
    },
    protocol::{GlobalModel, RoundId},
};

/// Halves every value of the adapter, or misbehaves.
#[derive(Debug)]
pub struct FakeRealigner(pub Conduct);

impl Realigner for FakeRealigner {
    fn realign(&self, _: RoundId, global: &GlobalModel, cancel: &CancelFlag) -> PortResult<Realignment> {
        self.0.act(cancel)?;
        let global = global.trainable();
        let halved = adapter(global.layout(), |index| match self.0 {
            Conduct::NotFinite => f32::NAN,
            _ => global.values()[index] / 2.0,
        });
        let report = RealignmentReport { steps: 1, ..RealignmentReport::default() };
        Ok(Realignment { adapter: halved, report, warnings: Vec::new() })
    }
}

/// Scores an adapter by its norm, or misbehaves.
#[derive(Debug)]
pub struct FakeBenchmarks(pub Conduct);

impl Benchmarks for FakeBenchmarks {
    fn evaluate(
        &self,
        _: RoundId,
        global: &GlobalModel,
        scope: EvaluationScope,
        cancel: &CancelFlag,
    ) -> PortResult<Evaluation> {
        self.0.act(cancel)?;
        let n = if scope == EvaluationScope::Full { 100 } else { 10 };
        let values = BTreeMap::from([("norm".to_owned(), global.trainable().l2_norm())]);
        Ok(BTreeMap::from([("norm".to_owned(), BenchmarkScore { n, items: None, values })]))
    }
}
