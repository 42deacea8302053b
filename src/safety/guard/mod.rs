//! Guards: safety classifiers of rows.
//!
//! The embedded guard is a logistic head on the frozen base model's mean hidden state: half a forward pass a row, and no
//! second model. [`ProtocolGuard`] speaks Llama Guard's protocol with a Llama Guard checkpoint, with one behind an endpoint, or with
//! any chat model that [`tune`] has taught it. [`ProgramGuard`] asks a program of the user's. All give [`Verdict`](fedward_actors::protocol::Verdict)s that depend on the row alone.

mod embedded;
mod head;
mod measurement;
mod metrics;
mod phrasing;
mod program;
mod protocol;
mod remembering;
mod remote;
mod report;
mod respondent;
mod split;
mod stored;
mod tuned;
mod viewing;

pub use embedded::{EmbeddedGuard, FeatureReading, GuardHeads};
use fedward_actors::ports::GuardModel;
pub use head::LogisticHead;
pub(crate) use measurement::assess_counting;
pub use measurement::{CurvePoint, HazardMetrics, Measurement, assess};
pub use metrics::{BinaryMetrics, auc, shown};
pub use phrasing::Phrasing;
pub use program::{GuardProgram, ProgramGuard, program_problem};
pub use protocol::{Answer, ProtocolGuard, Reading, Respondent, Tally};
pub use remembering::RememberingGuard;
pub use remote::EndpointRespondent;
pub use report::{GuardReport, metrics_line};
pub use respondent::ChatRespondent;
pub use split::Split;
pub use stored::{Fitted, GUARD_FILE, GuardFile, names_of};
pub use tuned::{GuardTuning, steps_an_epoch, tune};
pub use viewing::{part_read, viewing};

/// A guard that says how its answers went.
pub trait SafetyGuard: GuardModel {
    /// Counts over all answers so far; `None` for a guard that does not answer in words.
    fn tally(&self) -> Option<Tally> {
        None
    }
}
