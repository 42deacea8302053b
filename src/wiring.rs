//! A resolved scenario becomes actors.
