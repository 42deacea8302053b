//! Integration tests.

mod engine_behaviour;
mod engine_default;
mod engine_small;
mod engine_speed;
mod engine_support;
