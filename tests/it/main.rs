//! Integration tests.

mod engine_small;
mod engine_support;
