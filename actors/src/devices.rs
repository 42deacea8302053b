//! What clients run on, as far as time goes: a simulated second is a function of work, seed and client.

use serde::{Deserialize, Serialize};

use crate::{
    protocol::{ClientId, RoundId},
    streams::{Purpose, normal, stream},
};

/// How fast clients compute and how fast they are connected.
///
/// A client's speed is `median · exp(spread · z)` with a standard normal `z` of its own that stays the same over the run;
/// each task adds `jitter` in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceProfile {
    /// Median of the tokens that a client trains on per second.
    pub tokens_per_second: f64,
    /// Median of the bytes that a client receives per second.
    pub down_bytes_per_second: f64,
    /// Median of the bytes that a client sends per second.
    pub up_bytes_per_second: f64,
    /// Standard deviation of the logarithm of speed between clients.
    pub spread: f64,
    /// Standard deviation of the logarithm of the time that a task takes, from task to task of one client.
    pub jitter: f64,
    /// Seconds that every task takes, whatever is in it.
    pub latency_seconds: f64,
}

impl Default for DeviceProfile {
    /// Round numbers for slow clients on a home connection (50 Mbit/s down, 10 up); nothing of it was measured.
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

/// What a task asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskCost {
    pub(crate) bytes_down: u64,
    pub(crate) tokens: u64,
    pub(crate) bytes_up: u64,
}

impl DeviceProfile {
    /// Returns the simulated seconds that a task takes.
    pub(crate) fn seconds(&self, seed: u64, round: RoundId, client: ClientId, cost: TaskCost) -> f64 {
        let of_client = normal(&mut stream(seed, Purpose::Devices, RoundId::START, Some(client)));
        let of_task = normal(&mut stream(seed, Purpose::Devices, round, Some(client)));
        let slowness = (self.jitter * of_task - self.spread * of_client).exp();
        let work = cost.bytes_down as f64 / self.down_bytes_per_second
            + cost.tokens as f64 / self.tokens_per_second
            + cost.bytes_up as f64 / self.up_bytes_per_second;
        self.latency_seconds + slowness * work
    }

    /// Returns the first setting that no device can have, and what is wrong with it.
    pub fn complaint(&self) -> Option<(&'static str, String)> {
        let Self { tokens_per_second, down_bytes_per_second, up_bytes_per_second, spread, jitter, latency_seconds } =
            *self;
        let speeds = [
            ("tokens_per_second", tokens_per_second),
            ("down_bytes_per_second", down_bytes_per_second),
            ("up_bytes_per_second", up_bytes_per_second),
        ];
        let amounts = [("spread", spread), ("jitter", jitter), ("latency_seconds", latency_seconds)];
        let speed = speeds.into_iter().find(|(_, speed)| *speed <= 0.0 || !speed.is_finite());
        let amount = amounts.into_iter().find(|(_, amount)| *amount < 0.0 || !amount.is_finite());
        speed
            .map(|(name, found)| (name, format!("found {found}; allowed: above 0")))
            .or(amount.map(|(name, found)| (name, format!("found {found}; allowed: 0 or above"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: DeviceProfile = DeviceProfile {
        tokens_per_second: 100.0,
        down_bytes_per_second: 1e6,
        up_bytes_per_second: 1e5,
        spread: 0.0,
        jitter: 0.0,
        latency_seconds: 0.5,
    };

    fn seconds(profile: &DeviceProfile, round: u32, client: u32) -> f64 {
        let cost = TaskCost { bytes_down: 2_000_000, tokens: 300, bytes_up: 100_000 };
        profile.seconds(4, RoundId(round), ClientId(client), cost)
    }

    #[test]
    fn a_task_takes_what_its_bytes_and_tokens_take() {
        assert!((seconds(&PROFILE, 1, 0) - (0.5 + 2.0 + 3.0 + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn clients_differ_by_their_spread_and_tasks_by_their_jitter() {
        let spread = DeviceProfile { spread: 0.5, latency_seconds: 0.0, ..PROFILE };
        assert_eq!(seconds(&spread, 1, 3).to_bits(), seconds(&spread, 2, 3).to_bits());
        // The logarithms of 2,000 clients' times, over the median's, are normal with the spread for standard deviation.
        let logs: Vec<f64> = (0..2_000).map(|client| (seconds(&spread, 1, client) / 6.0).ln()).collect();
        let mean = logs.iter().sum::<f64>() / 2_000.0;
        let deviation = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / 2_000.0).sqrt();
        assert!(mean.abs() < 0.04 && (deviation - 0.5).abs() < 0.03, "{mean} {deviation}");
        let jitter = DeviceProfile { jitter: 0.1, ..PROFILE };
        assert_ne!(seconds(&jitter, 1, 3).to_bits(), seconds(&jitter, 2, 3).to_bits());
    }

    #[test]
    fn a_profile_that_is_none_is_complained_of() {
        assert_eq!(PROFILE.complaint(), None);
        let complaint = |profile: DeviceProfile| profile.complaint().unwrap();
        let still = complaint(DeviceProfile { tokens_per_second: 0.0, ..PROFILE });
        assert_eq!(still, ("tokens_per_second", "found 0; allowed: above 0".to_owned()));
        let odd = complaint(DeviceProfile { jitter: f64::NAN, ..PROFILE });
        assert_eq!(odd, ("jitter", "found NaN; allowed: 0 or above".to_owned()));
    }
}
