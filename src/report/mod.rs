//! What people read: progress while it runs, tables and a page when it is done.

mod console;
mod figures;
pub mod grid;
mod invariants;
mod others;
mod page;
mod pairs;
pub mod plots;
mod stored;
mod summary;
mod table;

pub(crate) use console::tell;
pub use console::{Console, Observers};
pub use invariants::{evidence_of, runs_in};
pub use page::{PageError, page};
pub use pairs::PairedComparison;
pub use stored::{RunState, StoredRun};
pub use summary::{RunStatus, Summary, Totals};
pub use table::{Comparison, comparison};
