//! Independent work on several threads, with results that do not depend on how many there are.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
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
    let chunks: Vec<_> = items.chunks(chunk_size.max(1)).collect();
    let next = AtomicUsize::new(0);
    let failed = std::sync::atomic::AtomicBool::new(false);
    let done = Mutex::new(Vec::with_capacity(chunks.len()));
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { break };
            let result = work(index * chunk_size.max(1), chunk);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(chunks.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    let mut results = Vec::with_capacity(items.len());
    for (_, result) in done {
        results.extend(result?);
    }
    Ok(results)
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
    fn an_error_ends_the_work() {
        let items: Vec<usize> = (0..100).collect();
        let result = by_chunks(&items, 1, 3, |first, _| if first == 50 { Err(first) } else { Ok(vec![first]) });
        assert_eq!(result, Err(50));
    }
}
