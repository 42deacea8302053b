//! Which rows are whose: clients', the server's, and those that are kept for measuring.

use std::{path::Path, sync::Arc};

use fedward_actors::{
    protocol::{ChatRow, RoundId, RowLabel},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;

use super::{
    SetupError,
    cai::CaiSource,
    judged::{JudgedParts, JudgedUse},
    overlap::Measured,
    turns::check_rows,
};
use crate::{
    data::{
        self, AdvBench, ClientFiles, ClientPlan, DataError, FederatedRows, GoalParts, GoalSplit, GoalUse, HarmfulShare,
        LabelledRow, Labels, Overlap, PartitionScheme, RowFormat, overlap::TextIndex,
    },
    eval::{BenchName, OwnKind, RefusalPrompt, harmful_prompts, prompt_sets::PROMPT_SETS, prompts_of, prompts_of_own},
    model::ChatTokenizer,
    scenario::{DataSection, FederationMode, HarmfulClients, HeadRows, RowSource, Scenario},
};

/// Benign rows that the server holds: alignment, guard training, Constitutional AI, the judge.
const SERVER_BENIGN_ROWS: usize = 400;

/// Everyday rows that are made per client where nothing says how many a client holds.
const EVERYDAY_ROWS_PER_CLIENT: usize = 100;

/// Those of them that the judge of evaluations alone is fitted on.
const JUDGE_BENIGN_ROWS: usize = 120;

/// The rows of a run. Those of clients, of the server and for measuring do not overlap, but for what is said
/// ([`DataPlan::assumptions`]); clients share rows only where there are too few ([`data::mix`]).
pub struct DataPlan {
    /// What each client holds.
    pub clients: Arc<FederatedRows>,
    /// Harmful goals by what they are for.
    pub goals: GoalParts,
    /// Benign rows of the server.
    pub server_benign: Vec<ChatRow>,
    /// Benign rows of the judge of evaluations; none where goals are parted by checksum.
    pub judge_benign: Vec<ChatRow>,
    /// What judged responses are parted by.
    judged: JudgedParts,
    /// Harmful prompts that are kept for measuring.
    pub evaluation_prompts: Vec<RefusalPrompt>,
    /// Benign rows that are kept for measuring.
    pub utility_rows: Vec<ChatRow>,
    /// What rows of files and of the guard repeat.
    pub overlaps: Vec<Overlap>,
    /// What of it stays, in words.
    kept: Vec<String>,
    /// What Constitutional AI begins with.
    pub(super) cai: CaiSource,
}

/// Benign rows by what they are for.
struct Benign {
    clients: Vec<ChatRow>,
    server: Vec<ChatRow>,
    utility: Vec<ChatRow>,
    /// Why there may be fewer for clients than the source holds.
    left_out: String,
}

impl DataPlan {
    /// Lays out the rows of a scenario for a model with this tokenizer.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if a file cannot be read, the model's chat template refuses a row of it, there are too few rows, or
    /// all rows of a file repeat what is measured with.
    pub fn of(scenario: &Scenario, tokenizer: &ChatTokenizer) -> Result<Self, SetupError> {
        let (mut goals, prompts, left_out) = goals_and_prompts(scenario)?;
        let other_prompts = other_harmful_prompts(scenario)?;
        let repeated = leave_out_repeated(&mut goals, &other_prompts, scenario)?;
        let mut measured = Measured::of(scenario, &goals, &prompts)?;
        measured.add_finding(left_out);
        measured.add_finding(repeated);
        let benign = benign_rows(scenario, tokenizer, &mut measured)?;
        let split = (scenario.evaluation.split, scenario.data_seed());
        let all_prompts = prompts.iter().chain(&other_prompts).map(|prompt| prompt.text.as_str());
        let judged = JudgedParts::new(split, &goals, all_prompts, &scenario.data.harmful);
        let harmful = match &scenario.data.harmful {
            RowSource::AdvBench => data::unsafe_rows(goals.of(GoalUse::Clients)),
            RowSource::File { path, format } => {
                let rows = read(path, *format, tokenizer)?;
                // Rows that no client holds have nothing to repeat.
                let is_held = scenario.data.harmful_share > 0.0;
                let rows = if is_held { measured.sift_clients("data.harmful.source", path, rows)? } else { rows };
                shuffled(labelled(rows, RowLabel::Unsafe), scenario.data_seed())
            }
            RowSource::ScoredResponses => {
                let scored = judged.of(JudgedUse::Clients, judged_responses()?);
                let rows = scored.into_iter().filter(|scored| scored.is_unsafe).map(|scored| scored.row).collect();
                let rows = measured.sift_clients("data.harmful.source", Path::new(data::SCORED_RESPONSES), rows)?;
                shuffled(rows, scenario.data_seed())
            }
            RowSource::Everyday | RowSource::ClientFiles { .. } => {
                return Err(SetupError::Other(
                    "data.harmful.source: expected \"advbench\", \"scored-responses\" or a file".into(),
                ));
            }
        };
        let cai = CaiSource::read(scenario, tokenizer, &mut measured)?;
        let share = scenario.data.harmful_share;
        let plan = ClientPlan {
            clients: scenario.federation.holders(),
            rows_per_client: scenario.data.rows_per_client,
            harmful: match scenario.data.harmful_clients {
                HarmfulClients::All => HarmfulShare::Every { share },
                HarmfulClients::Count(count) => HarmfulShare::Malicious { count, share },
            },
            scheme: scenario.data.partition,
            seed: scenario.data_seed(),
        };
        let clients = FederatedRows::new(benign.clients, harmful, &plan).map_err(|error| {
            let overlaps = measured.overlaps().iter().map(|overlap| format!("; {overlap}"));
            SetupError::Other(format!("{error}{}{}", benign.left_out, overlaps.collect::<String>()))
        })?;
        let clients = match scenario.federation.mode {
            FederationMode::Centralised { .. } => clients.pooled(),
            FederationMode::Federated | FederationMode::Local { .. } => clients,
        };
        let (overlaps, kept) = measured.into_findings();
        let mut server_benign = benign.server;
        let judge_benign = match scenario.evaluation.split {
            GoalSplit::Cluster => server_benign.split_off(server_benign.len().saturating_sub(JUDGE_BENIGN_ROWS)),
            GoalSplit::Fixed => Vec::new(),
        };
        Ok(Self {
            clients: Arc::new(clients),
            goals,
            server_benign,
            judge_benign,
            judged,
            evaluation_prompts: drawn(prompts, scenario),
            utility_rows: benign.utility,
            overlaps,
            kept,
            cai,
        })
    }

    /// Responses that people have judged, those of the guard or of the judge: prompts that nearly say the same are on one side, none
    /// that is measured is on either, and the judge's repeat no goal that anything else is trained on. Where goals are parted by
    /// checksum, both have all.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if they have not been fetched.
    pub fn judged_responses(&self, of: HeadRows) -> Result<Vec<LabelledRow>, SetupError> {
        Ok(self.judged.of(of.into(), judged_responses()?))
    }

    /// A checksum of what every client holds.
    pub fn clients_sha256(&self) -> String {
        self.clients.sha256()
    }

    /// What a run with these rows takes for granted.
    pub fn assumptions(&self) -> Vec<String> {
        let overlaps = self.overlaps.iter().map(ToString::to_string);
        overlaps.chain(self.kept.iter().cloned()).chain(self.clients.sharing()).collect()
    }

    /// Rows that align the starting adapter: refusals of the server's goals, and benign rows.
    pub fn alignment_rows(&self, refusal_share: f64, seed: u64) -> Vec<ChatRow> {
        let refusals = data::refusal_rows(self.goals.of(GoalUse::Alignment), seed);
        let benign = &self.server_benign;
        let total = (refusals.len() as f64 / refusal_share.max(1e-9))
            .min(benign.len() as f64 / (1.0 - refusal_share).max(1e-9));
        let (wanted_refusals, wanted_benign) = (total * refusal_share, total * (1.0 - refusal_share));
        let mut rows: Vec<_> = refusals.into_iter().take(wanted_refusals.round() as usize).collect();
        rows.extend(benign.iter().take(wanted_benign.round() as usize).cloned());
        shuffled(rows, seed)
    }
}

/// Benign rows of the scenario's source, and those of the server.
fn benign_rows(scenario: &Scenario, tokenizer: &ChatTokenizer, measured: &mut Measured) -> Result<Benign, SetupError> {
    let utility = scenario.evaluation.utility_rows;
    match &scenario.data.benign {
        RowSource::File { path, format } | RowSource::ClientFiles { path, format } => {
            let rows = match &scenario.data.benign {
                RowSource::ClientFiles { .. } => read_client_files(scenario, (path, *format), tokenizer, measured)?,
                _ => read_parted(&scenario.data, (path, *format), tokenizer)?,
            };
            let mut rows = shuffled(labelled(rows, RowLabel::Safe), scenario.data_seed());
            let read = rows.len();
            let utility = rows.split_off(read.saturating_sub(utility));
            measured.add_rows(&utility);
            let clients = measured.sift_clients("data.benign.source", path, rows)?;
            let is_short = clients.len() < scenario.data.rows_per_client.map_or(read, |each| each.min(read));
            let (path, held_out) = (path.display(), utility.len());
            let left_out = format!(
                "; of the {read} rows of {path} {held_out} are held out to be measured (evaluation.utility_rows)"
            );
            let server = data::benign_rows(scenario.data_seed(), SERVER_BENIGN_ROWS);
            Ok(Benign { clients, server, utility, left_out: if is_short { left_out } else { String::new() } })
        }
        RowSource::Everyday => {
            let allowed = data::held_out_benign_capacity();
            if utility > allowed {
                return Err(SetupError::Other(format!(
                    "evaluation.utility_rows: found {utility}; allowed: up to {allowed}, as many everyday rows are kept \
                     for measuring"
                )));
            }
            let each = scenario.data.rows_per_client.unwrap_or(EVERYDAY_ROWS_PER_CLIENT);
            let needed = scenario.federation.holders() as usize * each;
            let mut clients = data::benign_rows(scenario.data_seed(), needed + SERVER_BENIGN_ROWS);
            let server = clients.drain(..SERVER_BENIGN_ROWS.min(clients.len())).collect();
            let utility = data::held_out_benign_rows(scenario.data_seed(), utility);
            measured.add_rows(&utility);
            Ok(Benign { clients, server, utility, left_out: String::new() })
        }
        RowSource::AdvBench | RowSource::ScoredResponses => Err(SetupError::Other(
            "data.benign.source cannot be \"advbench\" or \"scored-responses\": it is harmful".into(),
        )),
    }
}

/// The rows of a file by which clients differ as the scenario says.
fn read_parted(
    data: &DataSection,
    (path, format): (&Path, RowFormat),
    tokenizer: &ChatTokenizer,
) -> Result<Vec<ChatRow>, SetupError> {
    let rows = match &data.partition_column {
        Some(column) => data::load_rows_by(path, format, column)?,
        None => data::load_placed_rows(path, format)?,
    };
    check_rows(rows.iter().map(|(place, row)| (*place, row)), path, tokenizer)?;
    if data.partition == PartitionScheme::Value
        && let Some((place, _)) = rows.iter().find(|(_, row)| row.topic.is_none())
    {
        let problem =
            "found no topic, which rows are parted by; add it, or name another column in data.partition_column";
        return Err(DataError::bad_record(path, *place, problem).into());
    }
    let first = rows.first().and_then(|(_, row)| row.topic.as_deref());
    if data.partition != PartitionScheme::Iid && rows.iter().all(|(_, row)| row.topic.as_deref() == first) {
        let column = data.partition_column.as_deref().unwrap_or("topic");
        let problem = format!(
            "{column}: found {} in all rows, expected two or more values to part rows by; name another column in \
             data.partition_column, or another data.partition",
            if first.is_some() { "the same value" } else { "none" }
        );
        return Err(DataError::bad_file(path, problem).into());
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The rows of a folder with a file for each client; their topics say whose they are.
fn read_client_files(
    scenario: &Scenario,
    (folder, format): (&Path, RowFormat),
    tokenizer: &ChatTokenizer,
    measured: &mut Measured,
) -> Result<Vec<ChatRow>, SetupError> {
    let ClientFiles { files, spare } = data::client_files(folder, scenario.federation.holders())?;
    let mut all = Vec::new();
    for file in &files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut rows = read(file, format, tokenizer)?;
        for row in &mut rows {
            row.topic.clone_from(&name);
        }
        all.extend(rows);
    }
    let told = format!(
        "clients hold the first {} of {} files of {}, by name",
        files.len(),
        files.len() + spare,
        folder.display()
    );
    measured.add_finding((spare > 0).then_some(told));
    Ok(all)
}

/// The rows of a file, all of which the model's chat template takes.
fn read(path: &Path, format: RowFormat, tokenizer: &ChatTokenizer) -> Result<Vec<ChatRow>, SetupError> {
    let rows = data::load_placed_rows(path, format)?;
    check_rows(rows.iter().map(|(place, row)| (*place, row)), path, tokenizer)?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The harmful goals of a run, all prompts that measure safety, and in words what was left out of the former since it repeats a
/// file of prompts.
fn goals_and_prompts(scenario: &Scenario) -> Result<(GoalParts, Vec<RefusalPrompt>, Option<String>), SetupError> {
    let evaluation = &scenario.evaluation;
    let advbench = AdvBench::load(&data::catalogue::fetched("advbench")?)?;
    let mut goals = GoalParts::new(&advbench, evaluation.split, scenario.data_seed());
    let Some(path) = evaluation.data.get(&BenchName::AdvBench) else {
        let prompts = harmful_prompts(goals.measured(evaluation.advbench_goals));
        return Ok((goals, prompts, None));
    };
    let prompts = harmful_prompts(AdvBench::load(path)?.all());
    let left_out = goals.leave_out(&TextIndex::new(prompts.iter().map(|prompt| &prompt.text)));
    if goals.of(GoalUse::Clients).is_empty() && scenario.data.harmful == RowSource::AdvBench {
        let problem = format!(
            "evaluation.data.advbench: {} repeats every AdvBench goal that clients would train on; name other rows in \
             data.harmful.source",
            path.display()
        );
        return Err(SetupError::Other(problem));
    }
    let told = format!(
        "overlap: evaluation.data.advbench: {left_out} AdvBench goals that clients and defences would train on repeat prompts of {}, \
         and are left out",
        path.display()
    );
    Ok((goals, prompts, (left_out > 0).then_some(told)))
}

/// The harmful prompts that are measured beside AdvBench's: those of other sets, and of the user's own.
fn other_harmful_prompts(scenario: &Scenario) -> Result<Vec<RefusalPrompt>, SetupError> {
    let evaluation = &scenario.evaluation;
    let prompt = |text: String| RefusalPrompt { item: String::new(), text };
    let mut prompts = Vec::new();
    for set in PROMPT_SETS.iter().filter(|set| evaluation.benches.contains(&set.bench)) {
        prompts.extend(prompts_of(set.bench, &evaluation.data)?.into_iter().map(prompt));
    }
    for own in evaluation.own.iter().filter(|own| own.kind == OwnKind::Refusal) {
        prompts.extend(prompts_of_own(own)?.into_iter().map(prompt));
    }
    Ok(prompts)
}

/// Takes AdvBench's goals that repeat other prompts that are measured from those that train something, and says how many that are.
fn leave_out_repeated(
    goals: &mut GoalParts,
    prompts: &[RefusalPrompt],
    scenario: &Scenario,
) -> Result<Option<String>, SetupError> {
    if prompts.is_empty() {
        return Ok(None);
    }
    let left_out = goals.leave_out(&TextIndex::new(prompts.iter().map(|prompt| &prompt.text)));
    if goals.of(GoalUse::Clients).is_empty() && scenario.data.harmful == RowSource::AdvBench {
        let problem = "evaluation: the prompts that are measured repeat every AdvBench goal that clients would train on; name other \
                       rows in data.harmful.source";
        return Err(SetupError::Other(problem.to_owned()));
    }
    Ok((left_out > 0).then(|| {
        format!(
            "overlap: {left_out} AdvBench goals that clients and defences would train on repeat prompts of other benchmarks, and are left \
             out"
        )
    }))
}

/// The prompts that are measured with.
fn drawn(mut prompts: Vec<RefusalPrompt>, scenario: &Scenario) -> Vec<RefusalPrompt> {
    prompts.shuffle(&mut stream(scenario.evaluation_seed(), Purpose::Evaluation, RoundId::START, None));
    prompts.truncate(scenario.evaluation.prompts);
    prompts
}

/// All responses that people have judged.
fn judged_responses() -> Result<Vec<LabelledRow>, DataError> {
    let mut rows = data::load_labelled(Path::new(data::SCORED_RESPONSES), Labels::Told, None)?;
    for row in &mut rows {
        "judged responses".clone_into(&mut row.source);
    }
    Ok(rows)
}

/// Rows without a label of their own are what the scenario calls their source.
fn labelled(mut rows: Vec<ChatRow>, label: RowLabel) -> Vec<ChatRow> {
    for row in &mut rows {
        row.label.get_or_insert(label);
    }
    rows
}

fn shuffled(mut rows: Vec<ChatRow>, seed: u64) -> Vec<ChatRow> {
    rows.shuffle(&mut stream(seed, Purpose::Partition, RoundId::START, None));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_label_are_what_their_source_is_called() {
        let unlabelled = ChatRow::single_turn("How tall is the tower?", "Quite tall.");
        let own = ChatRow { label: Some(RowLabel::Safe), ..unlabelled.clone() };
        let labels: Vec<_> =
            labelled(vec![unlabelled, own], RowLabel::Unsafe).into_iter().map(|row| row.label).collect();
        assert_eq!(labels, [Some(RowLabel::Unsafe), Some(RowLabel::Safe)]);
    }
}
