//! What environment variables say. A value that is not understood is an error that names its variable: taken for nothing said, it
//! would change what somebody meant to measure.

use std::{env, num::NonZeroUsize};

use miette::{IntoDiagnostic, WrapErr, miette};
use tracing_subscriber::EnvFilter;

/// Names the variable that counts where `--threads` is not given.
pub(super) const THREADS: &str = "FEDWARD_THREADS";

/// Names the variable that says what is logged.
const LOG: &str = "FEDWARD_LOG";

/// What the environment asks for.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) threads: Option<NonZeroUsize>,
    pub(super) log: EnvFilter,
}

impl Environment {
    /// Reads the variables of this process.
    pub(super) fn read() -> miette::Result<Self> {
        Self::of(|name| {
            env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// Reads variables by their names.
    fn of(variable: impl Fn(&str) -> Option<String>) -> miette::Result<Self> {
        let threads = |found: String| {
            found.trim().parse().map_err(|_| miette!("{THREADS}: found {found:?}, expected a whole number from 1"))
        };
        let log = |found: String| {
            let expected = "expected a level (error, warn, info, debug, trace) or directives such as fedward=debug";
            EnvFilter::try_new(&found).into_diagnostic().wrap_err_with(|| format!("{LOG}: found {found:?}, {expected}"))
        };
        let switch = fedward_native::kernels::SWITCH;
        match variable(switch).as_deref() {
            None | Some("on" | "off") => {}
            Some(found) => miette::bail!("{switch}: found {found:?}, expected \"on\" or \"off\""),
        }
        Ok(Self {
            threads: variable(THREADS).map(threads).transpose()?,
            log: variable(LOG).map_or_else(|| Ok(EnvFilter::new("warn")), log)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_understood_is_an_error_that_names_its_variable() {
        let complaint = |name: &'static str, value: &'static str| {
            Environment::of(|asked| (asked == name).then(|| value.to_owned())).unwrap_err().to_string()
        };
        assert_eq!(complaint(THREADS, "abc"), "FEDWARD_THREADS: found \"abc\", expected a whole number from 1");
        assert_eq!(complaint(THREADS, "0"), "FEDWARD_THREADS: found \"0\", expected a whole number from 1");
        assert!(
            complaint(LOG, "fedward=loud").starts_with("FEDWARD_LOG: found \"fedward=loud\", expected a level (error")
        );
        assert_eq!(complaint("FEDWARD_KERNELS", "0"), "FEDWARD_KERNELS: found \"0\", expected \"on\" or \"off\"");
        let read = Environment::of(|name| (name == THREADS).then(|| " 3 ".to_owned())).unwrap();
        assert_eq!((read.threads.map(NonZeroUsize::get), read.log.to_string().as_str()), (Some(3), "warn"));
        assert!(Environment::of(|_| None).unwrap().threads.is_none());
    }
}
