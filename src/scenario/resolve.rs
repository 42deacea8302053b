//! From the file as written to what a run does.

use std::{num::NonZeroU32, path::Path};

use fedward_actors::{CohortSampler, Schedule};

use super::{
    CaiSection, DataSection, EvaluationSection, FederationSection, GuardSection, ModelSection, Problem, RowSource,
    Scenario, ScenarioError, StartSection, TrainingSection,
    document::{Document, Variant},
    raw::{PartitionName, RawScenario, RawSource, SamplerName, ScheduleName, StartName},
    rules,
};
use crate::{
    data::{PartitionScheme, RowFormat},
    lora::LoraConfig,
    train::SftSettings,
};

/// Checks every rule, then fills in what a run needs.
pub(super) fn resolve(raw: &RawScenario, document: &Document, variant: &Variant) -> Result<Scenario, ScenarioError> {
    let mut problems: Vec<Problem> =
        rules::broken(raw).into_iter().map(|(key, message)| document.problem(variant, key, message)).collect();
    let mut complain = |key: &str, message: String| problems.push(document.problem(variant, key, message));
    let start = resolve_start(raw, document.folder(), &mut complain);
    let benign = resolve_source(&raw.data.benign, "data.benign", document.folder(), &mut complain);
    let harmful = resolve_source(&raw.data.harmful, "data.harmful", document.folder(), &mut complain);
    let (Some(start), Some(benign), Some(harmful), []) = (start, benign, harmful, problems.as_slice()) else {
        return Err(ScenarioError { problems });
    };
    let data = DataSection {
        rows_per_client: raw.data.rows_per_client,
        harmful_share: raw.data.harmful_share,
        harmful_clients: raw.data.harmful_clients,
        benign,
        harmful,
        partition: match raw.data.partition {
            PartitionName::Iid => PartitionScheme::Iid,
            PartitionName::Topic => PartitionScheme::Topic { alpha: raw.data.topic_alpha },
        },
    };
    let mut scenario = Scenario {
        name: raw.name.clone(),
        question: raw.question.clone(),
        variant: variant.name.clone(),
        seed: raw.seed,
        model: ModelSection {
            base: resolve_base(&raw.model.base, document.folder()),
            device: raw.model.device,
            precision: raw.model.precision,
        },
        lora: lora(raw),
        start,
        federation: federation(raw),
        data,
        training: training(raw),
        guard: guard(raw),
        cai: cai(raw),
        evaluation: evaluation(raw),
        assumptions: Vec::new(),
    };
    scenario.assumptions = assumptions(&scenario);
    Ok(scenario)
}

fn resolve_start(raw: &RawScenario, folder: &Path, complain: &mut dyn FnMut(&str, String)) -> Option<StartSection> {
    match (raw.start.kind, &raw.start.path) {
        (StartName::Fresh, None) => Some(StartSection::Fresh),
        (StartName::Aligned, None) => Some(StartSection::Aligned {
            refusal_share: raw.start.refusal_share,
            training: server_sft(raw.start.steps, raw.start.batch_size, raw.start.learning_rate, raw),
        }),
        (StartName::Adapter, Some(path)) => Some(StartSection::Adapter { path: folder.join(path) }),
        (StartName::Adapter, None) => {
            complain("start.path", "found none; start.kind = \"adapter\" needs a PEFT directory".into());
            None
        }
        (_, Some(_)) => {
            complain("start.path", "is set, but only start.kind = \"adapter\" reads it".into());
            None
        }
    }
}

fn resolve_source(
    raw: &RawSource,
    key: &str,
    folder: &Path,
    complain: &mut dyn FnMut(&str, String),
) -> Option<RowSource> {
    let format_without_file = |complain: &mut dyn FnMut(&str, String)| {
        if raw.format.is_some() {
            complain(&format!("{key}.format"), format!("is set, but source {:?} is not a file", raw.source));
        }
    };
    match raw.source.as_str() {
        "everyday" => {
            format_without_file(complain);
            Some(RowSource::Everyday)
        }
        "advbench" => {
            format_without_file(complain);
            Some(RowSource::AdvBench)
        }
        file => {
            let path = folder.join(file);
            if !path.is_file() {
                let message = format!("found {file:?}; allowed: \"everyday\", \"advbench\" or a file that exists");
                complain(&format!("{key}.source"), message);
                return None;
            }
            let format = match &raw.format {
                None => Ok(RowFormat::Auto),
                Some(name) => name.parse::<RowFormat>(),
            };
            match format {
                Ok(format) => Some(RowSource::File { path, format }),
                Err(message) => {
                    complain(&format!("{key}.format"), message);
                    None
                }
            }
        }
    }
}

/// A path is relative to the file; a name of the catalogue is left alone.
fn resolve_base(base: &str, folder: &Path) -> String {
    let looks_like_path = base.contains('/') || Path::new(base).extension().is_some_and(|ext| ext == "gguf");
    if looks_like_path { folder.join(base).display().to_string() } else { base.to_owned() }
}

fn lora(raw: &RawScenario) -> LoraConfig {
    LoraConfig {
        rank: raw.lora.rank,
        alpha: raw.lora.alpha,
        dropout: raw.lora.dropout,
        targets: raw.lora.targets.iter().copied().collect(),
        use_rslora: raw.lora.use_rslora,
    }
}

fn sft(steps: usize, batch_size: usize, learning_rate: f64, raw: &RawScenario) -> SftSettings {
    SftSettings {
        weight_decay: raw.training.weight_decay,
        max_grad_norm: Some(raw.training.max_grad_norm),
        ..SftSettings::new(steps, batch_size, learning_rate)
    }
}

/// Parts of a batch that the server computes side by side: it has the machine to itself.
const SERVER_SHARDS: usize = 2;

fn server_sft(steps: usize, batch_size: usize, learning_rate: f64, raw: &RawScenario) -> SftSettings {
    SftSettings { shards: SERVER_SHARDS, ..sft(steps, batch_size, learning_rate, raw) }
}

fn federation(raw: &RawScenario) -> FederationSection {
    let federation = &raw.federation;
    FederationSection {
        clients: federation.clients,
        cohort: federation.cohort,
        rounds: federation.rounds,
        quorum: federation.quorum,
        max_attempts: federation.max_attempts,
        client_timeout_seconds: federation.client_timeout_seconds,
        strategy: federation.strategy.clone(),
        sampler: match federation.sampler {
            SamplerName::Seeded => CohortSampler::Seeded,
            SamplerName::Openfedllm => CohortSampler::OpenFedLlm,
        },
        slots: federation.slots,
    }
}

fn training(raw: &RawScenario) -> TrainingSection {
    TrainingSection {
        sft: sft(raw.training.local_steps, raw.training.batch_size, raw.training.learning_rate, raw),
        max_length: raw.training.max_length,
    }
}

fn guard(raw: &RawScenario) -> Option<GuardSection> {
    raw.guard.enabled.then_some(GuardSection {
        threshold: raw.guard.threshold,
        layers: raw.guard.layers,
        max_length: raw.guard.max_length,
        train_rows: raw.guard.train_rows,
    })
}

fn cai(raw: &RawScenario) -> Option<CaiSection> {
    let schedule = schedule(raw.cai.schedule, raw.cai.every);
    (schedule != Schedule::Never).then(|| CaiSection {
        schedule,
        red_prompts: raw.cai.red_prompts,
        max_new_tokens: raw.cai.max_new_tokens,
        temperature: raw.cai.temperature,
        benign_share: raw.cai.benign_share,
        training: server_sft(raw.cai.steps, raw.cai.batch_size, raw.cai.learning_rate, raw),
    })
}

fn evaluation(raw: &RawScenario) -> EvaluationSection {
    EvaluationSection {
        schedule: schedule(raw.evaluation.schedule, raw.evaluation.every),
        prompts: raw.evaluation.prompts,
        interim_prompts: raw.evaluation.interim_prompts.min(raw.evaluation.prompts),
        utility_rows: raw.evaluation.utility_rows,
        max_new_tokens: raw.evaluation.max_new_tokens,
        temperature: raw.evaluation.temperature,
        matcher: raw.evaluation.matcher,
    }
}

fn schedule(name: ScheduleName, every: u32) -> Schedule {
    match (name, NonZeroU32::new(every)) {
        (ScheduleName::LastRound, _) => Schedule::LastRound,
        (ScheduleName::Every, Some(every)) => Schedule::Every(every),
        (ScheduleName::Never, _) | (ScheduleName::Every, None) => Schedule::Never,
    }
}

/// What the paper leaves open and this run had to decide.
fn assumptions(scenario: &Scenario) -> Vec<String> {
    let lora = &scenario.lora;
    let targets: Vec<_> = lora.targets.iter().map(ToString::to_string).collect();
    let mut assumptions = vec![format!(
        "LoRA rank {}, alpha {}, dropout {}, targets {} (the paper does not give them)",
        lora.rank,
        lora.alpha,
        lora.dropout,
        targets.join(",")
    )];
    let evaluation = &scenario.evaluation;
    let decoding = if evaluation.temperature == 0.0 {
        "greedy".to_owned()
    } else {
        format!("temperature {}", evaluation.temperature)
    };
    assumptions.push(format!(
        "AdvBench: {decoding} decoding, {} new tokens, {:?} refusal strings; OpenFedLLM samples at 0.7 with 1,024 new tokens",
        evaluation.max_new_tokens, evaluation.matcher
    ));
    if scenario.guard.is_some() {
        assumptions
            .push("the guard is a linear head on the frozen base model's hidden states, not Llama Guard 3".to_owned());
    }
    if let Some(cai) = &scenario.cai {
        assumptions.push(format!(
            "Constitutional AI: {} steps of fine-tuning on revisions, no preference optimisation; {:.0}% benign rows mixed in",
            cai.training.steps,
            100.0 * cai.benign_share
        ));
    }
    assumptions
}
