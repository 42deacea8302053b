//! What was there before a run: the base model and the adapter that it starts from, measured once for all runs of an
//! experiment.

use std::collections::HashMap;

use fedward_actors::{
    ports::Evaluation,
    protocol::{Adapter, RoundId},
};
use serde_json::{Value, json};

use super::{ExperimentError, SingleRun};
use crate::{lora::initial_adapter, report::Summary, scenario::StartSection, store::RunDirectory, wiring::Prepared};

/// Evaluations of what runs start from, by [`SingleRun::evaluation_key`].
pub(super) type Evaluations = HashMap<String, Evaluation>;

/// What was measured before a run.
pub(super) struct Baseline {
    /// Of the base model without an adapter, where the scenario asks for it.
    pub(super) base: Option<Evaluation>,
    /// Of the adapter that round 1 starts from.
    pub(super) start: Evaluation,
}

/// What the evaluation of the base model is known by, in place of an adapter's checksum.
const BASE: &str = "base";

/// The places in a manifest of what evaluations depend on beside the scenario.
const COMPUTED_WITH: [&str; 9] = [
    "/versions",
    "/code",
    "/instructions",
    "/resumed",
    "/device",
    "/precision",
    "/checksums/model_sha256",
    "/checksums/measured_sha256",
    "/judge/version",
];

impl SingleRun<'_> {
    /// Measures what the run starts from, as far as it is not known: what the run has measured of itself stays, also where other
    /// code goes on with it.
    pub(super) async fn baseline(
        &self,
        directory: &RunDirectory,
        prepared: &Prepared,
        known: &mut Evaluations,
    ) -> Result<Baseline, ExperimentError> {
        let resumed: Option<Summary> = directory.summary()?;
        if let Some(resumed) = &resumed {
            known.extend(self.evaluations_of(resumed, &directory.manifest()?)?);
        }
        let (start, base) = resumed.map_or((None, None), |own| (Some(own.start_eval), own.base_eval));
        let start = match start.filter(|start| !start.is_empty()) {
            Some(own) => own,
            None => self.evaluate_start(prepared, known).await?,
        };
        let base = match base {
            None if self.scenario.evaluation.base => Some(self.evaluate_base(prepared, known).await?),
            own => own,
        };
        Ok(Baseline { base, start })
    }

    /// The evaluation of the base model, unless it is known.
    pub(super) async fn evaluate_base(
        &self,
        prepared: &Prepared,
        known: &mut Evaluations,
    ) -> Result<Evaluation, ExperimentError> {
        if self.scenario.start == StartSection::Fresh {
            return self.evaluate_start(prepared, known).await;
        }
        // A fresh adapter adds nothing to the base.
        let fresh = initial_adapter(&self.scenario.lora, prepared.model.base.config(), self.scenario.training_seed());
        self.evaluate_once(prepared, (BASE, "the base model"), &fresh, known).await
    }

    /// The evaluation of the adapter that round 1 starts from, unless it is known.
    async fn evaluate_start(
        &self,
        prepared: &Prepared,
        known: &mut Evaluations,
    ) -> Result<Evaluation, ExperimentError> {
        let name = prepared.start.sha256();
        self.evaluate_once(prepared, (&name, "the starting adapter"), &prepared.start, known).await
    }

    async fn evaluate_once(
        &self,
        prepared: &Prepared,
        (name, what): (&str, &str),
        adapter: &Adapter,
        known: &mut Evaluations,
    ) -> Result<Evaluation, ExperimentError> {
        let key = self.evaluation_key(name, &self.manifest(prepared)?)?;
        if let Some(evaluation) = known.get(&key) {
            return Ok(evaluation.clone());
        }
        let evaluation = self.evaluate(prepared, RoundId::START, &adapter.clone().into(), what).await?;
        known.insert(key, evaluation.clone());
        Ok(evaluation)
    }

    /// What a run knows, by its summary, of the base model and of the adapter that it started from; `manifest` says what it was
    /// computed with.
    pub(super) fn evaluations_of(&self, summary: &Summary, manifest: &Value) -> Result<Evaluations, ExperimentError> {
        let start_sha256 = manifest["checksums"]["start_adapter_sha256"].as_str().unwrap_or_default();
        let start = Some(&summary.start_eval).filter(|start| !start.is_empty());
        let known = [(BASE, summary.base_eval.as_ref()), (start_sha256, start)];
        let known = known.into_iter().filter_map(|(name, evaluation)| Some((name, evaluation?)));
        known.map(|(name, evaluation)| Ok((self.evaluation_key(name, manifest)?, evaluation.clone()))).collect()
    }

    /// Names an evaluation: what of, and all that the benchmarks depend on, the judge among it.
    fn evaluation_key(&self, of: &str, manifest: &Value) -> Result<String, ExperimentError> {
        let mut scenario = self.context.recorded(self.scenario)?["scenario"].take();
        // Whether the base is measured, too, changes no measurement.
        scenario["evaluation"].as_object_mut().map(|evaluation| evaluation.remove("base"));
        let sections = ["seed", "seeds", "model", "lora", "data", "evaluation", "extensions"];
        let depends_on = sections.map(|section| &scenario[section]);
        Ok(json!([of, depends_on, computed_with(manifest)]).to_string())
    }
}

/// What of a manifest evaluations depend on. A run that has been gone on with by other code, or on another processor, has
/// evaluations of both, which no other run's are.
fn computed_with(manifest: &Value) -> Vec<Value> {
    COMPUTED_WITH.iter().map(|pointer| manifest.pointer(pointer).cloned().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_of_other_code_model_processor_data_or_judge_are_others() {
        let manifest = json!({
            "started_unix_seconds": 1,
            "versions": {"libtorch": "2"},
            "code": "a",
            "instructions": {"libtorch": "AVX2"},
            "device": "Cpu",
            "precision": "F32",
            "checksums": {"model_sha256": "m", "measured_sha256": "p", "client_rows_sha256": "r"},
            "judge": {"version": "j"},
        });
        let mut later = manifest.clone();
        later["started_unix_seconds"] = json!(2);
        later["checksums"]["client_rows_sha256"] = json!("s");
        assert_eq!(computed_with(&later), computed_with(&manifest));
        for (pointer, value) in [
            ("/code", json!("b")),
            ("/instructions/libtorch", json!("AVX512")),
            ("/device", json!("Cuda(0)")),
            ("/checksums/model_sha256", json!("n")),
            ("/checksums/measured_sha256", Value::Null),
            ("/judge/version", json!("k")),
        ] {
            let mut other = manifest.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_ne!(computed_with(&other), computed_with(&manifest), "{pointer}");
        }
        let mut resumed = manifest.clone();
        resumed["resumed"] = json!([{"after_round": 1, "code": "b", "instructions": {}}]);
        assert_ne!(computed_with(&resumed), computed_with(&manifest));
    }
}
