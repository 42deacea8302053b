//! Supervised fine-tuning of an adapter on a frozen base model.

mod local;
mod optimizer;
mod schedule;
mod sft;
mod shards;
mod trainer;

pub use local::{RememberingTrainer, SftTrainer, SharedTrainings};
pub use optimizer::AdamSettings;
pub use schedule::LrSchedule;
pub use sft::{SftOutcome, SftSettings, StepReport, TrainStreams, train_sft};
pub use trainer::{AdapterTrainer, TrainerSettings};
