//! Update screens: defences that look at what clients send, before it is aggregated.

mod norm_bound;

pub use norm_bound::{Excess, NormBound};
