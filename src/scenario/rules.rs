//! Complaints about keys, and the rules that many keys share.

/// What is wrong with keys, in the order in which it was found.
#[derive(Default)]
pub(super) struct Rules {
    /// The key and what is wrong with it.
    pub(super) broken: Vec<(String, String)>,
    /// Keys whose paths lead to nothing on this machine, which may not be the one that the scenario is for.
    pub(super) missing: Vec<(String, String)>,
}

impl Rules {
    pub(super) fn complain(&mut self, key: &str, message: impl Into<String>) {
        self.broken.push((key.to_owned(), message.into()));
    }

    pub(super) fn check(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.complain(key, message());
        }
    }

    /// Complains of a path that leads to nothing.
    pub(super) fn lacks(&mut self, key: &str, message: impl Into<String>) {
        self.missing.push((key.to_owned(), message.into()));
    }

    pub(super) fn at_least_one(&mut self, key: &str, value: usize) {
        self.check(value > 0, key, || "found 0; allowed: 1 or more".into());
    }

    pub(super) fn at_least_sixteen_tokens(&mut self, key: &str, value: usize) {
        self.check(value >= 16, key, || format!("found {value}; allowed: 16 tokens or more"));
    }

    pub(super) fn share(&mut self, key: &str, value: f64) {
        self.check((0.0..=1.0).contains(&value), key, || format!("found {value}; allowed: from 0 to 1"));
    }

    pub(super) fn below_one(&mut self, key: &str, value: f64) {
        self.check((0.0..1.0).contains(&value), key, || format!("found {value}; allowed: from 0 to below 1"));
    }

    pub(super) fn positive(&mut self, key: &str, value: f64) {
        self.check(value > 0.0 && value.is_finite(), key, || format!("found {value}; allowed: above 0"));
    }

    pub(super) fn not_negative(&mut self, key: &str, value: f64) {
        self.check(value >= 0.0 && value.is_finite(), key, || format!("found {value}; allowed: 0 or above"));
    }
}
