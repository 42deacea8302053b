//! `[devices]` and `[gather]`: simulated time, and how long the server waits in it.

use fedward_actors::{DeviceProfile, Gather, Late};
use serde::Deserialize;

use super::rules::Rules;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDevices {
    pub tokens_per_second: f64,
    pub down_bytes_per_second: f64,
    pub up_bytes_per_second: f64,
    pub spread: f64,
    pub jitter: f64,
    pub latency_seconds: f64,
}

impl Default for RawDevices {
    /// A phone of some years ago on a home connection: 40 tokens/s trained, 50 Mbit/s down, 10 Mbit/s up.
    fn default() -> Self {
        Self {
            tokens_per_second: 40.0,
            down_bytes_per_second: 6.25e6,
            up_bytes_per_second: 1.25e6,
            spread: 0.5,
            jitter: 0.1,
            latency_seconds: 0.1,
        }
    }
}

impl RawDevices {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.positive("devices.tokens_per_second", self.tokens_per_second);
        rules.positive("devices.down_bytes_per_second", self.down_bytes_per_second);
        rules.positive("devices.up_bytes_per_second", self.up_bytes_per_second);
        rules.not_negative("devices.spread", self.spread);
        rules.not_negative("devices.jitter", self.jitter);
        rules.not_negative("devices.latency_seconds", self.latency_seconds);
    }

    pub(super) const fn resolve(&self) -> DeviceProfile {
        DeviceProfile {
            tokens_per_second: self.tokens_per_second,
            down_bytes_per_second: self.down_bytes_per_second,
            up_bytes_per_second: self.up_bytes_per_second,
            spread: self.spread,
            jitter: self.jitter,
            latency_seconds: self.latency_seconds,
        }
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
