//! fedward
fn main(){}
