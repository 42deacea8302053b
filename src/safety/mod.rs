//! Guard and Constitutional AI.

pub mod cai;
pub mod guard;
