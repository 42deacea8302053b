//! When requests may be sent: the rate, and waits between retries.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use fedward_actors::cancel::CancelFlag;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::EndpointSettings;

/// How often waiting looks at the cancel flag.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// The cancel flag was raised while waiting.
pub(super) struct Cancelled;

/// Waits, unless cancelled.
pub(super) fn wait(how_long: Duration, cancel: &CancelFlag) -> Result<(), Cancelled> {
    let begun = Instant::now();
    loop {
        if cancel.is_cancelled() {
            return Err(Cancelled);
        }
        let left = how_long.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// Spreads requests evenly over time.
pub(super) struct RateLimit {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub(super) fn of(settings: &EndpointSettings) -> Self {
        let interval = settings.requests_per_minute.map_or(Duration::ZERO, |n| Duration::from_mins(1) / n.get());
        Self { interval, next: Mutex::new(None) }
    }

    /// Waits for this request's turn.
    pub(super) fn admit(&self, cancel: &CancelFlag) -> Result<(), Cancelled> {
        let now = Instant::now();
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = next.map_or(now, |next| next.max(now));
            *next = Some(turn + self.interval);
            turn
        };
        wait(turn.saturating_duration_since(now), cancel)
    }
}

/// The wait before retry `retry` (from 0): between half of and the whole of `first_delay · 2^retry`, at most `max_delay`.
pub(super) fn backoff(settings: &EndpointSettings, retry: u32, rng: &mut ChaCha8Rng) -> Duration {
    let doubled = settings.first_delay.saturating_mul(2_u32.saturating_pow(retry)).min(settings.max_delay);
    doubled.mul_f64(1.0 - rng.random::<f64>() / 2.0)
}

/// What a `Retry-After` header asks for: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}
