//! Constitutional AI on the server (Bai et al., 2022): red prompt → answer → critique → revision with the global adapter,
//! then fine-tuning of the global adapter: supervised on revisions, then on preferences for revisions over answers.

mod constitution;
mod default_constitution;
mod generator;
mod refusals;
mod revisions;
mod screening;
mod speaker;
mod teacher;
mod tuning;

pub use constitution::{Constitution, ConstitutionError, Principle};
pub use generator::{CaiGenerator, CaiSettings, Examples, Harvest, Material, Revise};
pub use refusals::Method;
pub use revisions::{Dialogue, Dialogues};
pub use screening::{Discard, Screened};
pub use speaker::{SelfSpeaker, Speaker};
pub use teacher::Teacher;
pub use tuning::Effort;
