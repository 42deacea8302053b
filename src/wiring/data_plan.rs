//! Which rows are whose: clients', the server's, and those that are kept for measuring.

use std::{collections::HashSet, path::Path, sync::Arc};

use fedward_actors::{
    protocol::{ChatRow, RoundId, RowLabel},
    streams::{Purpose, stream},
};
use rand::seq::SliceRandom;

use super::{SetupError, turns::check_rows};
use crate::{
    data::{self, AdvBench, AdvBenchPart, ClientPlan, DataError, FederatedRows, Goal, HarmfulShare},
    eval::{RefusalPrompt, advbench_prompts},
    model::ChatTokenizer,
    scenario::{HarmfulClients, RowSource, Scenario},
};

/// Benign rows that the server holds: alignment, guard training, Constitutional AI.
const SERVER_BENIGN_ROWS: usize = 400;

/// The rows of a run. Those of clients, of the server and for measuring do not overlap; clients share rows only where there
/// are too few ([`data::mix`]).
pub struct DataPlan {
    /// What each client holds.
    pub clients: Arc<FederatedRows>,
    /// Harmful goals of the server: red prompts, refusals, guard training.
    pub server_goals: Vec<Goal>,
    /// Benign rows of the server.
    pub server_benign: Vec<ChatRow>,
    /// Harmful prompts that are kept for measuring.
    pub evaluation_prompts: Vec<RefusalPrompt>,
    /// Benign rows that are kept for measuring.
    pub utility_rows: Vec<ChatRow>,
}

impl DataPlan {
    /// Lays out the rows of a scenario for a model with this tokenizer.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if a file cannot be read, the model's chat template refuses a row of it, or there are too few rows.
    pub fn of(scenario: &Scenario, tokenizer: &ChatTokenizer) -> Result<Self, SetupError> {
        let load = |path: &Path, format, label| -> Result<Vec<ChatRow>, DataError> {
            let rows = data::load_placed_rows(path, format)?;
            check_rows(rows.iter().map(|(place, row)| (*place, row)), path, tokenizer)?;
            Ok(shuffled(labelled(rows.into_iter().map(|(_, row)| row).collect(), label), scenario.data_seed()))
        };
        let advbench = AdvBench::load(&data::catalogue::fetched("advbench")?)?;
        let needed = scenario.federation.clients as usize * scenario.data.rows_per_client;
        let utility = scenario.evaluation.utility_rows;
        let mut left_out = String::new();
        let (benign, server_benign, utility_rows) = match &scenario.data.benign {
            RowSource::File { path, format } => {
                let rows = load(path, *format, RowLabel::Safe)?;
                let read = rows.len();
                let (rows, utility_rows) = held_out(rows, utility);
                if rows.len() < scenario.data.rows_per_client.min(read) {
                    left_out = format!(
                        "; of the {read} rows of {} {} are held out to be measured, with their copies \
                         (evaluation.utility_rows)",
                        path.display(),
                        read - rows.len()
                    );
                }
                (rows, data::benign_rows(scenario.data_seed(), SERVER_BENIGN_ROWS), utility_rows)
            }
            RowSource::Everyday => {
                let allowed = data::held_out_benign_capacity();
                if utility > allowed {
                    return Err(SetupError::Other(format!(
                        "evaluation.utility_rows: found {utility}; allowed: up to {allowed}, as many everyday rows are \
                         kept for measuring"
                    )));
                }
                let mut rows = data::benign_rows(scenario.data_seed(), needed + SERVER_BENIGN_ROWS);
                let server = rows.drain(..SERVER_BENIGN_ROWS.min(rows.len())).collect();
                (rows, server, data::held_out_benign_rows(scenario.data_seed(), utility))
            }
            RowSource::AdvBench => {
                return Err(SetupError::Other("data.benign.source cannot be \"advbench\": it is harmful".into()));
            }
        };
        let harmful = match &scenario.data.harmful {
            RowSource::AdvBench => data::unsafe_rows(&advbench.goals(AdvBenchPart::Clients)),
            RowSource::File { path, format } => load(path, *format, RowLabel::Unsafe)?,
            RowSource::Everyday => {
                return Err(SetupError::Other("data.harmful.source cannot be \"everyday\": it is benign".into()));
            }
        };
        let share = scenario.data.harmful_share;
        let plan = ClientPlan {
            clients: scenario.federation.clients,
            rows_per_client: scenario.data.rows_per_client,
            harmful: match scenario.data.harmful_clients {
                HarmfulClients::All => HarmfulShare::Every { share },
                HarmfulClients::Count(count) => HarmfulShare::Malicious { count, share },
            },
            scheme: scenario.data.partition,
            seed: scenario.data_seed(),
        };
        Ok(Self {
            clients: Arc::new(
                FederatedRows::new(benign, harmful, &plan)
                    .map_err(|error| SetupError::Other(format!("{error}{left_out}")))?,
            ),
            server_goals: advbench.goals(AdvBenchPart::Server),
            server_benign,
            evaluation_prompts: evaluation_prompts(&advbench, scenario),
            utility_rows,
        })
    }

    /// A checksum of what every client holds.
    pub fn clients_sha256(&self) -> String {
        self.clients.sha256()
    }

    /// What a run with these rows takes for granted.
    pub fn assumptions(&self) -> Vec<String> {
        self.clients.sharing().into_iter().collect()
    }

    /// Rows that align the starting adapter: refusals of the server's goals, and benign rows.
    pub fn alignment_rows(&self, refusal_share: f64, seed: u64) -> Vec<ChatRow> {
        let refusals = data::refusal_rows(&self.server_goals, seed);
        let benign = &self.server_benign;
        let total = (refusals.len() as f64 / refusal_share.max(1e-9))
            .min(benign.len() as f64 / (1.0 - refusal_share).max(1e-9));
        let (wanted_refusals, wanted_benign) = (total * refusal_share, total * (1.0 - refusal_share));
        let mut rows: Vec<_> = refusals.into_iter().take(wanted_refusals.round() as usize).collect();
        rows.extend(benign.iter().take(wanted_benign.round() as usize).cloned());
        shuffled(rows, seed)
    }
}

fn evaluation_prompts(advbench: &AdvBench, scenario: &Scenario) -> Vec<RefusalPrompt> {
    let mut prompts = advbench_prompts(advbench, scenario.evaluation.advbench_goals);
    prompts.shuffle(&mut stream(scenario.evaluation_seed(), Purpose::Evaluation, RoundId::START, None));
    prompts.truncate(scenario.evaluation.prompts);
    prompts
}

/// Rows without a label of their own are what the scenario calls their source.
fn labelled(mut rows: Vec<ChatRow>, label: RowLabel) -> Vec<ChatRow> {
    for row in &mut rows {
        row.label.get_or_insert(label);
    }
    rows
}

/// Takes the last `count` rows away to measure with, and leaves no copy of them behind.
fn held_out(mut rows: Vec<ChatRow>, count: usize) -> (Vec<ChatRow>, Vec<ChatRow>) {
    let held_out = rows.split_off(rows.len().saturating_sub(count));
    let digests: HashSet<_> = held_out.iter().map(ChatRow::digest).collect();
    rows.retain(|row| !digests.contains(&row.digest()));
    (rows, held_out)
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

    #[test]
    fn a_row_that_is_measured_with_has_no_copy_among_the_others() {
        let row = |text: &str| ChatRow::single_turn(text, "Yes.");
        let (rest, kept) = held_out(["a", "b", "a", "c", "b"].map(row).to_vec(), 2);
        assert_eq!((rest, kept), (["a", "a"].map(row).to_vec(), ["c", "b"].map(row).to_vec()));
        assert_eq!(held_out(vec![row("a")], 5), (vec![], vec![row("a")]));
    }
}
