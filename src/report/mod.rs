//! What people read: progress while it runs, tables and a page when it is done.

mod console;
mod summary;
mod table;

pub use console::{Console, Observers};
pub use summary::{RunStatus, Summary, Totals};
pub use table::comparison;
