//! How long work is followed: one port, from the model up to whoever tells people.

use std::sync::{Mutex, PoisonError};

/// Hears how far work is. Work comes in stages, a stage may come in parts, and each counts for itself.
pub trait Progress: Send + Sync {
    /// A piece of work has begun.
    fn stage(&self, what: &str);
    /// A part of it has begun, and counts anew.
    fn part(&self, what: &str);
    /// `done` of `total` steps are done. Never fewer than before within a part.
    fn step(&self, done: u64, total: u64);
    /// Something that people should know of the work and that stays: what it assumes, what is left aside.
    fn line(&self, _: &str) {}
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str) {}

    fn part(&self, _: &str) {}

    fn step(&self, _: u64, _: u64) {}
}

/// Counts what several threads finish of one piece of work.
pub(crate) struct Counter<'a> {
    progress: &'a dyn Progress,
    total: u64,
    done: Mutex<u64>,
}

impl<'a> Counter<'a> {
    pub(crate) const fn new(progress: &'a dyn Progress, total: usize) -> Self {
        Self { progress, total: total as u64, done: Mutex::new(0) }
    }

    /// Told under the lock, so that counts arrive in their order.
    pub(crate) fn add(&self, count: usize) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += count as u64;
        self.progress.step(*done, self.total);
    }
}

/// Parts, each with the steps that were told of it.
#[cfg(test)]
type Parts = Vec<(String, Vec<(u64, u64)>)>;

/// What was heard, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Parts>);

#[cfg(test)]
impl Heard {
    pub(crate) fn parts(&self) -> Parts {
        self.0.lock().unwrap().clone()
    }
}

#[cfg(test)]
impl Progress for Heard {
    fn stage(&self, what: &str) {
        self.part(what);
    }

    fn part(&self, what: &str) {
        self.0.lock().unwrap().push((what.to_owned(), Vec::new()));
    }

    fn step(&self, done: u64, total: u64) {
        let mut parts = self.0.lock().unwrap();
        if parts.is_empty() {
            parts.push((String::new(), Vec::new()));
        }
        parts.last_mut().unwrap().1.push((done, total));
    }
}
