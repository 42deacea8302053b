//! `[devices]` and `[gather]`: simulated time, and how long the server waits in it.

use fedward_actors::{DeviceProfile, Gather, Late};
use serde::Deserialize;

use super::rules::Rules;

/// Checks what clients run on.
pub(super) fn check_devices(devices: &DeviceProfile, rules: &mut Rules) {
    if let Some((name, complaint)) = devices.complaint() {
        rules.complain(&format!("devices.{name}"), complaint);
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGather {
    pub first: Option<u32>,
    pub deadline_seconds: Option<f64>,
    pub late: LateName,
    pub staleness_exponent: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LateName {
    #[default]
    Discard,
    Count,
}

impl RawGather {
    pub(super) fn check(&self, cohort: u32, quorum: u32, has_devices: bool, rules: &mut Rules) {
        if let Some(first) = self.first {
            rules.check((quorum..=cohort).contains(&first), "gather.first", || {
                format!("found {first}; allowed: {quorum} (federation.quorum) to {cohort} (federation.cohort)")
            });
        }
        if let Some(seconds) = self.deadline_seconds {
            rules.positive("gather.deadline_seconds", seconds);
        }
        if let Some(exponent) = self.staleness_exponent {
            rules.not_negative("gather.staleness_exponent", exponent);
            rules.check(self.late == LateName::Count, "gather.staleness_exponent", || {
                "late work is discarded; it counts with gather.late = \"count\"".into()
            });
        }
        let waits_for_some = self.first.is_some() || self.deadline_seconds.is_some();
        let key = if self.first.is_some() { "gather.first" } else { "gather.deadline_seconds" };
        rules.check(has_devices || !waits_for_some, key, || {
            "who is first is a matter of simulated time; say what clients run on in [devices]".into()
        });
        rules.check(waits_for_some || self.late == LateName::Discard, "gather.late", || {
            "nobody is late where the server waits for all; set gather.first or gather.deadline_seconds".into()
        });
    }

    pub(super) fn resolve(&self) -> Gather {
        let late = match self.late {
            LateName::Discard => Late::Discard,
            LateName::Count => Late::Count { exponent: self.staleness_exponent.unwrap_or(0.5) },
        };
        Gather { first: self.first, deadline_seconds: self.deadline_seconds, late }
    }
}
