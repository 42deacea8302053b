//! A resolved scenario becomes actors: models are loaded, rows laid out, defences built, ports filled.
//!
//! What several variants of a scenario have in common is made once: the base model, the starting adapter, the guard.

mod cai;
mod data_plan;
mod guard;
mod inputs;
mod judged;
mod overlap;
mod shares;
mod start;
mod turns;
mod workshop;

use std::sync::Arc;

use fedward_actors::{
    FederationConfig, Ports, Schedule,
    cancel::CancelFlag,
    policy::{GuardPolicy, RowGuard},
    ports::{Benchmarks, ClientRows, GuardModel, Observer, UpdateScreen},
    protocol::Adapter,
};

pub use cai::cai_generator;
pub use data_plan::DataPlan;
pub use guard::FittedGuard;
pub use inputs::InputChecksums;
pub use shares::HarmfulShares;
pub use workshop::Workshop;

use crate::{
    attacks::{self, InForce, KnownDefence},
    data::{DataError, refusals::REFUSALS},
    eval::{BenchRecipe, BenchmarkSuite, RecipeError},
    model::{ChatModel, Decoding, ModelError, Replicas},
    progress::Progress,
    safety::{
        guard::BinaryMetrics,
        screen::{CosineScreen, NormBound, NormOutlier},
    },
    scenario::{FederationMode, FederationSection, GuardSection, HarmfulClients, PolicyName, Scenario, ScreenSection},
    store::{RunDirectory, StoreError},
    train::{RememberingTrainer, SftTrainer},
};

/// Why a scenario cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The model, or something computed with it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Rows.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A benchmark.
    #[error(transparent)]
    Benchmark(#[from] RecipeError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Everything that one run needs, ready to start.
pub struct Prepared {
    /// The base model.
    pub model: Arc<ChatModel>,
    /// The same on all devices that clients train on.
    pub replicas: Arc<Replicas>,
    /// The adapter that round 1 starts from.
    pub start: Adapter,
    /// What is measured.
    pub benchmarks: Arc<BenchmarkSuite>,
    /// The guard with its own measurement, if the scenario has one.
    pub guard: Option<Arc<FittedGuard>>,
    /// What the guard is worth on clients' rows, where their harmful ones are of another source than AdvBench's openings.
    pub guard_on_clients: Option<BinaryMetrics>,
    /// The guard that looks at evaluated responses, if there is one.
    pub judge: Option<Arc<FittedGuard>>,
    /// Which rows are whose.
    pub data: Arc<DataPlan>,
    /// Checksums of what is read beside the rows of clients.
    pub inputs: InputChecksums,
    /// How much of what clients train on is harmful.
    pub harmful: HarmfulShares,
    /// Hears how far realignments are.
    pub progress: Arc<dyn Progress>,
}

/// What the coordinator is told of a scenario.
pub fn federation_config(scenario: &Scenario, slots: usize) -> FederationConfig {
    let federation = &scenario.federation;
    FederationConfig {
        seed: scenario.training_seed(),
        attack_seed: scenario.attack_seed(),
        clients: federation.clients,
        cohort: federation.cohort,
        rounds: federation.rounds,
        quorum: federation.quorum,
        slots,
        max_attempts: federation.max_attempts,
        client_timeout: std::time::Duration::from_secs(federation.client_timeout_seconds),
        server_timeout: std::time::Duration::from_secs(federation.server_timeout_seconds),
        align: scenario.cai.as_ref().map_or(Schedule::Never, |cai| cai.schedule),
        evaluate: scenario.evaluation.schedule,
        sampler: federation.sampler,
        faults: scenario.faults.clone(),
        devices: scenario.devices,
        gather: scenario.gather,
        ranks: scenario.client_ranks.clone(),
    }
}

/// Fills the ports of one run.
///
/// # Errors
///
/// [`SetupError`] if the strategy is unknown, or a file of Constitutional AI cannot be used.
pub fn ports(
    scenario: &Scenario,
    prepared: &Prepared,
    workshop: &Workshop,
    directory: &RunDirectory,
    observer: Arc<dyn Observer>,
) -> Result<Ports, SetupError> {
    let FederationSection { strategy: algorithm, clients, .. } = scenario.federation;
    let trainer = SftTrainer {
        models: Arc::clone(&prepared.replicas),
        dropout: scenario.lora.dropout,
        settings: scenario.training.sft.clone(),
        lr_over_rounds: scenario.training.lr_schedule,
        rounds: scenario.federation.rounds,
        max_length: scenario.training.max_length,
        seed: scenario.training_seed(),
    };
    let pipeline = scenario.server.clone().unwrap_or_else(|| algorithm.preset());
    let guard = prepared.guard.as_ref().map(|guard| Arc::clone(&guard.model) as Arc<dyn GuardModel>);
    let row_guard = guard.clone().zip(scenario.guard.as_ref()).map(|(model, section)| row_guard(model, section));
    // Where all hold harmful rows, or one holds those of all, that tells nobody apart.
    let is_told_apart = matches!(scenario.data.harmful_clients, HarmfulClients::Count(_))
        && scenario.federation.mode == FederationMode::Federated;
    let dealt = &prepared.data.clients;
    let InForce { adversary, rows } = attacks::put_in_force(
        &scenario.attacks,
        clients,
        scenario.attack_seed(),
        KnownDefence { pre: pipeline.pre.clone(), aggregator: pipeline.aggregator.clone() },
        Arc::clone(dealt) as Arc<dyn ClientRows>,
        |client| is_told_apart && dealt.holds_harm(client),
    );
    Ok(Ports {
        rows,
        trainer: if scenario.variant.is_empty() {
            Arc::new(trainer)
        } else {
            Arc::new(RememberingTrainer::new(trainer, workshop.shared_trainings()))
        },
        realigner: cai_generator(scenario, prepared, guard)?.map(|cai| Arc::new(cai) as _),
        guard: row_guard,
        adversary,
        screen: scenario.screen.as_ref().map(update_screen),
        strategy: algorithm.server_with(clients, pipeline, scenario.client_ranks.clone(), scenario.training_seed()),
        algorithm: algorithm.clients(),
        memories: Arc::new(directory.memories()),
        benchmarks: Some(Arc::clone(&prepared.benchmarks) as Arc<dyn Benchmarks>),
        store: Box::new(directory.share()),
        observer,
    })
}

fn row_guard(model: Arc<dyn GuardModel>, section: &GuardSection) -> RowGuard {
    let policy = match section.policy {
        PolicyName::Drop => GuardPolicy::Drop,
        PolicyName::Replace => GuardPolicy::Replace(REFUSALS.map(str::to_owned).into()),
        PolicyName::Reweight => GuardPolicy::Reweight,
    };
    RowGuard { model, assessed: section.assess, verdicts: section.verdicts, policy }
}

fn update_screen(section: &ScreenSection) -> Arc<dyn UpdateScreen> {
    match *section {
        ScreenSection::NormBound { max_norm_ratio, action } => {
            Arc::new(NormBound { max_ratio: max_norm_ratio, excess: action })
        }
        ScreenSection::NormOutlier { measure, max_deviations, action } => {
            Arc::new(NormOutlier { measure, max_deviations, action })
        }
        ScreenSection::Cosine { min_cosine, action } => Arc::new(CosineScreen { min_cosine, action }),
    }
}

/// The benchmarks of a scenario on an adapter of its shape.
///
/// # Errors
///
/// [`SetupError`] if the data of one is missing or its judge cannot be reached.
pub(crate) fn benchmark_suite(
    scenario: &Scenario,
    model: &Arc<ChatModel>,
    data: &DataPlan,
    guard: Option<Arc<dyn GuardModel>>,
    progress: &Arc<dyn Progress>,
    cancel: &CancelFlag,
) -> Result<BenchmarkSuite, SetupError> {
    let evaluation = &scenario.evaluation;
    let recipe = BenchRecipe {
        prompts: evaluation.prompts,
        hhh_items: evaluation.hhh_items,
        xstest_prompts: evaluation.xstest_prompts.unwrap_or(evaluation.prompts),
        mt_bench_questions: evaluation.mt_bench_questions.unwrap_or(evaluation.prompts),
        split: evaluation.split,
        data_seed: scenario.data_seed(),
        advbench_goals: evaluation.advbench_goals,
        advbench_suffix: evaluation.advbench_suffix.clone(),
        decoding: Decoding::new(evaluation.max_new_tokens, evaluation.temperature),
        mt_bench_max_new_tokens: evaluation.mt_bench_max_new_tokens,
        matcher: evaluation.matcher,
        seed: scenario.evaluation_seed(),
        data: evaluation.data.clone(),
        judge: evaluation.judge.clone(),
        guard,
        utility_rows: data.utility_rows.clone(),
        harmful_prompts: Some(data.evaluation_prompts.clone()),
    };
    let known = evaluation.benches.iter().map(|&bench| Ok((bench.name().to_owned(), recipe.benchmark(bench, cancel)?)));
    let own = evaluation.own.iter().map(|own| Ok((own.name.clone(), recipe.own(own)?)));
    Ok(BenchmarkSuite {
        model: Arc::clone(model),
        benchmarks: known.chain(own).collect::<Result<_, SetupError>>()?,
        extensions: Vec::new(),
        interim_benches: evaluation.interim_benches.clone(),
        interim_prompts: evaluation.interim_prompts,
        seed: scenario.evaluation_seed(),
        progress: Arc::clone(progress),
    })
}
