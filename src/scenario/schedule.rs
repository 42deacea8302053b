//! In which rounds something happens.

use std::num::NonZeroU32;

use fedward_actors::Schedule;
use serde::Deserialize;

use super::rules::Rules;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ScheduleName {
    #[default]
    Never,
    Every,
    LastRound,
}

impl ScheduleName {
    /// Checks the `key` that says after how many rounds it happens.
    pub(super) fn check(self, key: &'static str, every: u32, rounds: u32, rules: &mut Rules) {
        let holds = self != Self::Every || (1..=rounds).contains(&every);
        rules.check(holds, key, || format!("found {every}; allowed: 1 to {rounds} (federation.rounds)"));
    }

    pub(super) fn resolve(self, every: u32) -> Schedule {
        match (self, NonZeroU32::new(every)) {
            (Self::LastRound, _) => Schedule::LastRound,
            (Self::Every, Some(every)) => Schedule::Every(every),
            (Self::Never, _) | (Self::Every, None) => Schedule::Never,
        }
    }
}
