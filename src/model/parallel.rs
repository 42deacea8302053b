//! Independent work on several threads, with results that do not depend on how many there are.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Applies `work` to chunks of fixed size, on up to `threads` threads, and returns the results in order.
///
/// `work` gets the index of its chunk's first item. The chunks are the same whatever `threads` is, so results are too.
///
/// # Errors
///
/// The error of the earliest failed chunk; chunks that were not begun by then are left out.
pub(crate) fn by_chunks<T, R, E>(
    items: &[T],
    chunk_size: usize,
    threads: usize,
    work: impl Fn(usize, &[T]) -> Result<Vec<R>, E> + Sync,
) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
{
    let mut results = Vec::with_capacity(items.len());
    each_by_chunks(items, chunk_size, threads, work, &mut |result| {
        results.push(result);
        Ok(())
    })?;
    Ok(results)
}

/// As [`by_chunks`], but hands on each result as soon as all before it are there. An error of `take` ends the work.
///
/// # Errors
///
/// As [`by_chunks`], or that of `take`.
pub(crate) fn each_by_chunks<T, R, E>(
    items: &[T],
    chunk_size: usize,
    threads: usize,
    work: impl Fn(usize, &[T]) -> Result<Vec<R>, E> + Sync,
    take: &mut (dyn FnMut(R) -> Result<(), E> + Send),
) -> Result<(), E>
where
    T: Sync,
    R: Send,
    E: Send,
{
    let chunks: Vec<_> = items.chunks(chunk_size.max(1)).collect();
    let next = AtomicUsize::new(0);
    let order = Mutex::new(InOrder { waiting: BTreeMap::new(), next: 0, failed: None, is_refused: false, take });
    let has_failed = || order.lock().unwrap_or_else(PoisonError::into_inner).failed.is_some();
    let worker = || {
        while !has_failed() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { break };
            let result = work(index * chunk_size.max(1), chunk);
            order.lock().unwrap_or_else(PoisonError::into_inner).add(index, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(chunks.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let order = order.into_inner().unwrap_or_else(PoisonError::into_inner);
    order.failed.map_or(Ok(()), |(_, error)| Err(error))
}

/// Results that come as chunks are done, and go in the order of the chunks.
struct InOrder<'t, R, E> {
    waiting: BTreeMap<usize, Vec<R>>,
    /// The chunk whose results go next.
    next: usize,
    /// The earliest chunk that failed.
    failed: Option<(usize, E)>,
    /// Whether `take` has failed.
    is_refused: bool,
    take: &'t mut (dyn FnMut(R) -> Result<(), E> + Send),
}

impl<R, E> InOrder<'_, R, E> {
    fn add(&mut self, index: usize, result: Result<Vec<R>, E>) {
        match result {
            Ok(results) => {
                self.waiting.insert(index, results);
            }
            Err(error) => self.fail(index, error),
        }
        while !self.is_refused
            && let Some(results) = self.waiting.remove(&self.next)
        {
            if let Err(error) = results.into_iter().try_for_each(&mut *self.take) {
                // Whoever takes what comes later would take it for this.
                self.is_refused = true;
                self.fail(self.next, error);
            }
            self.next += 1;
        }
    }

    fn fail(&mut self, index: usize, error: E) {
        if self.failed.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
            self.failed = Some((index, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_threads() {
        let items: Vec<usize> = (0..103).collect();
        for threads in [1, 2, 7] {
            let result = by_chunks(&items, 10, threads, |first, chunk| {
                assert_eq!(chunk[0], first);
                Ok::<_, ()>(chunk.iter().map(|item| item * 2).collect())
            });
            assert_eq!(result, Ok(items.iter().map(|item| item * 2).collect()));
        }
    }

    #[test]
    fn what_is_done_is_handed_on_before_an_error() {
        let items: Vec<usize> = (0..100).collect();
        let mut taken = Vec::new();
        let work = |first, chunk: &[usize]| if first == 50 { Err(first) } else { Ok(chunk.to_vec()) };
        let result = each_by_chunks(&items, 10, 3, work, &mut |item| {
            taken.push(item);
            Ok(())
        });
        assert_eq!((result, taken), (Err(50), (0..50).collect()));
    }

    #[test]
    fn nothing_is_handed_on_behind_what_was_refused() {
        let mut taken = Vec::new();
        let take: &mut (dyn FnMut(usize) -> Result<(), usize> + Send) = &mut |item| {
            taken.push(item);
            if item == 1 { Err(item) } else { Ok(()) }
        };
        let mut order = InOrder { waiting: BTreeMap::new(), next: 0, failed: None, is_refused: false, take };
        for (chunk, results) in [(1, vec![2, 3]), (0, vec![0, 1]), (2, vec![4])] {
            order.add(chunk, Ok(results));
        }
        assert_eq!(order.failed, Some((0, 1)));
        assert_eq!(taken, [0, 1]);
    }

    #[test]
    fn an_error_ends_the_work() {
        let items: Vec<usize> = (0..100).collect();
        let result = by_chunks(&items, 1, 3, |first, _| if first == 50 { Err(first) } else { Ok(vec![first]) });
        assert_eq!(result, Err(50));
    }
}
