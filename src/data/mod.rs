//! Rows: the catalogue, formats, the benign generator, partitions.

pub mod benign;
mod error;
pub mod formats;

pub use benign::{TOPICS, benign_rows};
pub use error::{DataError, Place};
pub use formats::{RowFormat, load_prompts, load_rows};
