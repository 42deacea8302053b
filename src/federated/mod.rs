//! Aggregation strategies, one a file.

pub mod aggregate;
mod fedavg;

use fedward_actors::ports::Strategy;

pub use fedavg::FedAvg;

/// Makes a strategy of its own for a run.
type MakeStrategy = fn() -> Box<dyn Strategy>;

/// Every strategy by the name that scenarios use.
const STRATEGIES: &[(&str, MakeStrategy)] = &[(FedAvg::NAME, || Box::new(FedAvg))];

/// The names that [`strategy_by_name`] knows.
pub fn strategy_names() -> impl Iterator<Item = &'static str> {
    STRATEGIES.iter().map(|(name, _)| *name)
}

/// A strategy by the name that scenarios use, in its starting state.
pub fn strategy_by_name(name: &str) -> Option<Box<dyn Strategy>> {
    strategy_factory(name).map(|make| make())
}

/// Makes the strategy of a name, each time in its starting state.
pub fn strategy_factory(name: &str) -> Option<fn() -> Box<dyn Strategy>> {
    STRATEGIES.iter().find(|(known, _)| *known == name).map(|(_, make)| *make)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_gives_the_strategy_of_that_name() {
        for name in strategy_names() {
            assert_eq!(strategy_by_name(name).unwrap().name(), name);
        }
        assert!(strategy_names().any(|name| name == "fedavg"));
        assert!(strategy_by_name("fedavgm2").is_none());
    }
}
