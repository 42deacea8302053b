//! Rows: the catalogue, formats, the benign generator, partitions.

pub mod advbench;
pub mod benign;
pub mod catalogue;
mod client_files;
mod error;
mod fetch;
pub mod formats;
pub mod hazards;
mod measured;
pub mod overlap;
pub mod partition;
mod prompts;
pub mod refusals;
pub mod scored;
mod split;

pub use advbench::{
    AdvBench, AdvBenchPart, Goal, MeasuredGoals, refusal_of, refusal_rows, refusal_rows_in, unsafe_rows,
};
pub use benign::{TOPICS, benign_rows, held_out_benign_capacity, held_out_benign_rows};
pub use catalogue::{CatalogueEntry, EntryKind, PackageForm, PackagedFile, PipPackage};
pub use client_files::{ClientFiles, client_files};
pub use error::{DataError, Place};
pub use fetch::FetchStep;
pub use formats::{
    ExactNumbers, Fields, LabelledFields, LabelledRow, Labels, PassedRecord, PreferencePair, ReadRecord, Revision,
    Revisions, RowFormat, SCORED_RESPONSES, load_labelled, load_pairs, load_placed_rows, load_prompts, load_revisions,
    load_rows, load_rows_by, load_rows_with_records,
};
pub use measured::{MeasuredTexts, Overlap, OverlapPolicy, Repeats, describe_repeats};
pub use partition::{ClientPlan, ClientSource, FederatedRows, HarmfulShare, PartitionScheme, mix, rows_are_shared};
pub use prompts::{PromptText, load_prompt_texts};
pub use scored::{ScoredRow, scored_rows};
pub use split::{GoalParts, GoalSplit, GoalUse};
