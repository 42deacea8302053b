//! What people read: progress while it runs, tables and a page when it is done.

mod console;
mod page;
pub mod plots;
mod summary;
mod table;

pub use console::{Console, Observers};
pub use page::page;
pub use summary::{RunStatus, Summary, Totals};
pub use table::comparison;
