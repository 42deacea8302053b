//! Guard, update screens and Constitutional AI.

pub mod cai;
pub mod guard;
pub mod screen;
