//! fedward
fn main() {}
