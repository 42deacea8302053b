//! The table of all metrics. Adding one here is all it takes for it to be described and given its buckets.
//!
//! `variant` is the scenario's variant, or a grid's cell; a label `client` exists up to [`CLIENT_LABEL_LIMIT`] clients.

use super::metric::{Counter, Declaration, Gauge, Histogram, Kind, Unit, declare};

/// Up to how many clients a run has series for each client: 1,000 clients with 3 metrics render in 7 ms, 10,000 in 105 ms,
/// and every series stays in the scraper's memory. Larger runs have the same values in `clients.jsonl`.
pub const CLIENT_LABEL_LIMIT: u32 = 1_000;

const PHASE_SECONDS: &[f64] =
    &[0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
const ROUND_SECONDS: &[f64] = &[0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0];
const LOSS: &[f64] = &[0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0];
const NORM: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

declare! {
    RUN_INFO: Gauge(), "fedward_run_info", Dimensionless, ["scenario", "variant", "strategy", "guard", "model"],
        "What is run, always 1";
    RUN_ACTIVE: Gauge(), "fedward_run_active", Dimensionless, ["variant"],
        "1 while the variant runs, 0 once it has ended";
    RUN_CLIENTS: Gauge(), "fedward_run_clients", Count, ["variant"],
        "Clients of the federation";
    RUN_ROUNDS: Gauge(), "fedward_run_planned_rounds", Count, ["variant"],
        "Rounds that the scenario asks for";
    LAST_EVENT: Gauge(), "fedward_last_event_timestamp_seconds", Seconds, ["variant"],
        "When anything last happened in the run, in seconds since 1970";

    ROUND: Gauge(), "fedward_round", Count, ["variant"],
        "The round that runs or ran last, 0 before the first";
    COHORT: Gauge(), "fedward_cohort_clients", Count, ["variant"],
        "Clients selected in the current round";
    PHASE_ACTIVE: Gauge(), "fedward_phase_active", Dimensionless, ["variant", "phase"],
        "1 for the phase that the round is in, 0 for the others";
    ROUNDS: Counter(), "fedward_rounds_total", Count, ["variant", "outcome"],
        "Rounds that ended, by outcome";
    ROUND_DURATION: Histogram(ROUND_SECONDS), "fedward_round_duration_seconds", Seconds, ["variant"],
        "Seconds of a whole round";
    PHASE_DURATION: Histogram(PHASE_SECONDS), "fedward_phase_duration_seconds", Seconds, ["variant", "phase"],
        "Seconds of each phase of a round";
    LAST_ROUND_PHASE: Gauge(), "fedward_last_round_phase_seconds", Seconds, ["variant", "phase"],
        "Seconds of each phase of the round that ended last";
    ROUND_WARNINGS: Counter(), "fedward_round_warnings_total", Count, ["variant"],
        "Things that went wrong without ending their round";
    FAULTS: Counter(), "fedward_faults_total", Count, ["variant", "fault"],
        "Faults that were put in on purpose";

    CLIENT_OUTCOMES: Counter(), "fedward_client_outcomes_total", Count, ["variant", "outcome", "reason"],
        "Selected clients by what became of them";
    CLIENT_TRAIN_DURATION: Histogram(PHASE_SECONDS), "fedward_client_train_duration_seconds", Seconds, ["variant"],
        "Seconds of training of a client in a round";
    CLIENT_TRAIN_LOSS: Histogram(LOSS), "fedward_client_train_loss", Dimensionless, ["variant"],
        "Mean training loss of a client in a round";
    CLIENT_UPDATE_NORM: Histogram(NORM), "fedward_client_update_norm", Dimensionless, ["variant"],
        "Euclidean norm of a client's adapter delta in a round";
    CLIENT_LAST_TRAIN_LOSS: Gauge(), "fedward_client_last_train_loss", Dimensionless, ["variant", "client"],
        "Mean training loss of one client when it last trained; absent above 1,000 clients";
    CLIENT_ROWS_FILTERED: Counter(), "fedward_client_rows_filtered_total", Count, ["variant", "client"],
        "Rows of one client that the guard filtered, replaced or reweighted; absent above 1,000 clients";

    GUARD_ROWS: Counter(), "fedward_guard_rows_total", Count, ["variant", "verdict"],
        "Rows by what the guard did with them: kept, filtered, replaced, reweighted; without a guard all are kept";
    GUARD_MISTAKES: Counter(), "fedward_guard_mistakes_total", Count, ["variant", "mistake"],
        "Labelled rows that the guard got wrong, `kept_unsafe` or `filtered_safe` (or replaced, reweighted), and rows for which its answer could not be read, `malformed`, or of which it read only a part, `cut`; absent without a guard";

    TRAIN_TOKENS: Counter(), "fedward_train_tokens_total", Tokens, ["variant", "source"],
        "Tokens that clients trained on, padding not counted: computed, or reused from an earlier variant";
    TRAIN_THROUGHPUT: Gauge(), "fedward_train_tokens_per_second", TokensPerSecond, ["variant"],
        "Tokens computed over the seconds of the train phase, in the last round that did not reuse all trainings";
    TRAIN_STEPS: Counter(), "fedward_train_steps_total", Count, ["variant", "source"],
        "Optimizer steps of clients: computed, or reused from an earlier variant";
    TRAIN_LOSS: Gauge(), "fedward_train_loss", Dimensionless, ["variant"],
        "Mean loss of the accepted clients in the round that ended last, weighted by tokens";
    CLIPPED: Counter(), "fedward_updates_clipped_total", Count, ["variant"],
        "Updates that the update screen scaled down before they were aggregated";
    UPDATE_NORM: Gauge(), "fedward_update_norm", Dimensionless, ["variant"],
        "Euclidean norm of the global adapter's change in the last aggregation";
    STRATEGY_STATE: Gauge(), "fedward_strategy_state", Dimensionless, ["variant", "measure"],
        "What the strategy says of itself after the last aggregation, such as the norm of its control variate";
    ADAPTER_BYTES: Counter(), "fedward_adapter_bytes_total", Bytes, ["variant", "direction"],
        "Bytes of adapters, and of other vectors of their size, that clients sent (up) and the server sent (down)";

    REALIGNMENTS: Counter(), "fedward_realignments_total", Count, ["variant"],
        "Realignments of the global adapter by Constitutional AI";
    REALIGN_RED_PROMPTS: Counter(), "fedward_realign_red_prompts_total", Count, ["variant"],
        "Red prompts asked in realignments";
    REALIGN_REVISIONS: Counter(), "fedward_realign_revisions_total", Count, ["variant"],
        "Revisions worth training on: where few pairs are left, those set aside for preferences are not";
    REALIGN_GOOD_ANSWERS: Counter(), "fedward_realign_good_answers_total", Count, ["variant"],
        "Answers to red prompts that need no revision: the guard was sure that they are safe, or they were prepared so";
    REALIGN_DISCARDED: Counter(), "fedward_realign_discarded_total", Count, ["variant", "reason"],
        "Revisions and prepared answers that realignments discarded, by reason";
    REALIGN_GENERATED: Counter(), "fedward_realign_generated_tokens_total", Tokens, ["variant"],
        "Tokens generated in realignments";
    REALIGN_TRAIN_TOKENS: Counter(), "fedward_realign_train_tokens_total", Tokens, ["variant"],
        "Tokens trained on in realignments";
    REALIGN_STEPS: Counter(), "fedward_realign_steps_total", Count, ["variant"],
        "Optimizer steps of realignments";
    REALIGN_LOSS: Gauge(), "fedward_realign_loss", Dimensionless, ["variant"],
        "Mean loss of supervised fine-tuning in the last realignment";
    REALIGN_PREFERENCE_LOSS: Gauge(), "fedward_realign_preference_loss", Dimensionless, ["variant"],
        "Mean loss of training on preferences in the last realignment that had any";
    REALIGN_REWARD_MARGIN: Gauge(), "fedward_realign_reward_margin", Dimensionless, ["variant"],
        "Reward of chosen minus that of rejected responses in the last step on preferences";
    REALIGN_REWARD_ACCURACY: Gauge(), "fedward_realign_reward_accuracy_ratio", Dimensionless, ["variant"],
        "Share of pairs whose chosen response has the higher reward in the last step on preferences";
    REALIGN_PART_DURATION: Histogram(PHASE_SECONDS), "fedward_realign_part_duration_seconds", Seconds, ["variant", "part"],
        "Seconds of each part of a realignment: generate, sft, dpo";
    REALIGN_PART_TOKENS: Counter(), "fedward_realign_part_tokens_total", Tokens, ["variant", "part"],
        "Tokens that went through the model in each part of realignments";
    REALIGN_PART_FLOPS: Counter(), "fedward_realign_part_flops_total", Count, ["variant", "part"],
        "Floating-point operations of each part of realignments, by formula";

    EVALUATION: Gauge(), "fedward_evaluation_value", Dimensionless, ["variant", "benchmark", "measure"],
        "The last value of each measure of each benchmark";
    EVALUATION_ITEMS: Gauge(), "fedward_evaluation_items", Count, ["variant", "benchmark"],
        "Prompts or items that the last values of a benchmark rest on";
    EVALUATION_ROUND: Gauge(), "fedward_evaluation_round", Count, ["variant"],
        "The round after which the last evaluation was made";

    ACTOR_RESTARTS: Counter(), "fedward_actor_restarts_total", Count, ["variant", "kind"],
        "Actors that died and were started again, by kind";

    PROCESS_RESIDENT: Gauge(), "fedward_process_resident_memory_bytes", Bytes, [],
        "Memory that the process holds now";
    PROCESS_PEAK: Gauge(), "fedward_process_peak_resident_memory_bytes", Bytes, [],
        "Most memory that the process has held";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("fedward_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            let is_counter = metric.kind == Kind::Counter;
            assert_eq!(name.ends_with("_total"), is_counter, "{name}: counters, and only they, end in _total");
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert!(stem.ends_with(metric.unit.suffix()), "{name} lacks its unit {}", metric.unit.suffix());
            for reserved in ["_count", "_sum", "_bucket", "_info"] {
                assert!(!stem.ends_with(reserved) || name == RUN_INFO.0.name, "{name} ends in {reserved}");
            }
            for unit in ["_ms", "milliseconds", "minutes", "_kb", "_mb", "percent"] {
                assert!(!name.contains(unit), "{name} is not in a base unit");
            }
        }
    }

    #[test]
    fn a_name_that_ends_in_a_unit_declares_it() {
        for metric in ALL {
            let stem = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            for unit in [Unit::Seconds, Unit::Bytes, Unit::Tokens, Unit::TokensPerSecond] {
                let tokens_per_second = unit == Unit::Seconds && stem.ends_with("_per_second");
                assert!(!stem.ends_with(unit.suffix()) || metric.unit == unit || tokens_per_second, "{}", metric.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn labels_are_not_those_that_prometheus_keeps_for_itself() {
        for metric in ALL {
            for label in metric.labels {
                assert!(!["le", "quantile", "job", "instance"].contains(label), "{} {label}", metric.name);
                assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{} {label}", metric.name);
            }
        }
    }

    #[test]
    fn every_metric_of_a_run_tells_its_variant() {
        for metric in ALL.iter().filter(|metric| !metric.name.starts_with("fedward_process_")) {
            assert!(metric.labels.contains(&"variant"), "{}", metric.name);
        }
    }

    #[test]
    fn buckets_ascend() {
        for metric in ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }

    #[test]
    fn help_is_a_line_without_a_full_stop() {
        for metric in ALL {
            assert!(
                !metric.help.is_empty() && !metric.help.ends_with('.') && !metric.help.contains('\n'),
                "{}",
                metric.name
            );
        }
    }
}
