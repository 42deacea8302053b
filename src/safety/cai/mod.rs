//! Constitutional AI on the server (Bai et al., 2022): red prompt → answer → critique → revision with the global adapter,
//! then fine-tuning of the global adapter on the revisions.

mod constitution;
mod generator;
mod revisions;

pub use constitution::{Constitution, Example, Principle};
pub use generator::{CaiGenerator, CaiSettings};
pub use revisions::{Dialogue, Discard, Revisions};
