//! Supervised fine-tuning of an adapter on a frozen base model.

mod optimizer;
mod schedule;
mod sft;
mod trainer;

pub use optimizer::AdamSettings;
pub use schedule::LrSchedule;
pub use sft::{SftOutcome, SftSettings, StepReport, TrainStreams, train_sft};
pub use trainer::{AdapterTrainer, TrainerSettings};
