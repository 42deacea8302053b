//! Panics of other people's code as values.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

thread_local! {
    /// Which panics of this thread become values.
    static EXPECTED: Cell<fn(&dyn Any) -> bool> = const { Cell::new(|_| false) };
}

/// Does `work`, and returns what a panic in it carries. One that is `expected` prints no message; every other prints it, and is
/// for the caller to resume.
///
/// # Errors
///
/// The payload of the panic.
pub(crate) fn catch<T>(expected: fn(&dyn Any) -> bool, work: impl FnOnce() -> T) -> Result<T, Payload> {
    stay_quiet_about_expected_panics();
    let outer = EXPECTED.replace(expected);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(outer);
    done
}

/// Does `work`, in which any panic is an error with the panic's message.
///
/// # Errors
///
/// The message.
pub(crate) fn catch_all<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch(|_| true, work).map_err(|payload| message(&*payload).to_owned())
}

/// The message of a panic.
pub(crate) fn message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Whether a panic on this thread would print nothing now.
fn is_expected(payload: &dyn Any) -> bool {
    EXPECTED.get()(payload)
}

/// The hook is the whole process's: it hands all other panics to the one before.
fn stay_quiet_about_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !is_expected(info.payload()) {
                print(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_panic_becomes_its_message() {
        assert_eq!(catch_all(|| 7), Ok(7));
        assert_eq!(catch_all::<()>(|| panic!("a bug")), Err("a bug".to_owned()));
        let index = std::hint::black_box(3);
        let error = catch_all(|| [1, 2, 3][index]).unwrap_err();
        assert!(error.contains("out of bounds"), "{error}");
    }

    #[test]
    fn only_expected_panics_print_nothing() {
        let bug: &dyn Any = &"a bug";
        assert!(!is_expected(bug), "nobody catches it here");
        let inside = catch(
            |payload| message(payload) == "a bug",
            || [is_expected(bug), is_expected(&"another"), catch_all(|| is_expected(&"another")).unwrap()],
        );
        assert_eq!(inside.unwrap(), [true, false, true]);
        assert!(!is_expected(bug), "it is over");
    }
}
