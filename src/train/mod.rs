//! Fine-tuning of an adapter on a frozen base model: supervised, and on preferences.

mod batches;
mod dpo;
mod flops;
mod local;
mod optimizer;
mod schedule;
mod sft;
mod shards;
mod trainer;

pub use dpo::{DpoOutcome, DpoSettings, DpoStep, TokenizedPair, dpo_loss, train_dpo};
pub use flops::Flops;
pub use local::{RememberingTrainer, SftTrainer, SharedTrainings};
pub use optimizer::AdamSettings;
pub use schedule::{LrSchedule, RoundCurve, RoundSchedule};
pub use sft::{SftOutcome, SftRows, SftSettings, StepReport, TrainStreams, train_sft};
pub use shards::LONE_SHARDS;
pub use trainer::{AdapterTrainer, TrainerSettings};
