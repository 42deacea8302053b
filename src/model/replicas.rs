//! The same model on several devices, for pieces of work that come one at a time.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ChatModel, device};

/// The same model once a device, each lent to whoever comes while the others have more to do.
#[derive(Debug)]
pub struct Replicas<M = ChatModel> {
    models: Vec<Arc<M>>,
    /// How many have borrowed each.
    users: Mutex<Vec<usize>>,
}

/// A model that is lent.
pub struct Replica<'a, M = ChatModel> {
    of: &'a Replicas<M>,
    index: usize,
}

impl<M> Replicas<M> {
    /// `first` and the same on `other` devices.
    pub fn new(first: Arc<M>, other: impl IntoIterator<Item = Arc<M>>) -> Self {
        let models: Vec<_> = std::iter::once(first).chain(other).collect();
        let users = Mutex::new(vec![0; models.len()]);
        Self { models, users }
    }

    /// The one that stands for all of them, and does what is not spread over devices.
    pub fn first(&self) -> &Arc<M> {
        &self.models[0]
    }

    /// On how many devices the model is.
    pub fn count(&self) -> usize {
        self.models.len()
    }

    /// The model that the fewest have borrowed, of equals the first, until the loan is dropped.
    pub fn borrow(&self) -> Replica<'_, M> {
        let mut users = self.users();
        let index = (0..users.len()).min_by_key(|&index| users[index]).unwrap_or(0);
        users[index] += 1;
        Replica { of: self, index }
    }

    fn users(&self) -> MutexGuard<'_, Vec<usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicas {
    /// Most bytes that this process has held on one of their CUDA devices.
    pub fn peak_device_memory(&self) -> Option<u64> {
        self.models.iter().filter_map(|model| device::peak_memory(model.base.device())).max()
    }
}

impl<M> From<Arc<M>> for Replicas<M> {
    fn from(only: Arc<M>) -> Self {
        Self::new(only, [])
    }
}

impl<M> Deref for Replica<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.of.models[self.index]
    }
}

impl<M> Drop for Replica<'_, M> {
    fn drop(&mut self) {
        self.of.users()[self.index] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_where_the_least_is_done() {
        let replicas = Replicas::new(Arc::new(0), [1, 2].map(Arc::new));
        assert_eq!((replicas.count(), **replicas.first()), (3, 0));
        let mut held: Vec<_> = (0..5).map(|_| replicas.borrow()).collect();
        assert_eq!(held.iter().map(|replica| **replica).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        // The third model is free, then the first has one user less than the second.
        held.remove(2);
        held.remove(0);
        assert_eq!(*replicas.borrow(), 2);
        held.push(replicas.borrow());
        held.push(replicas.borrow());
        assert_eq!(held.iter().map(|replica| **replica).collect::<Vec<_>>(), [1, 0, 1, 2, 0]);
    }
}
