//! When the server stops waiting and goes on: after all clients, after some of them, at a deadline.

use serde::{Deserialize, Serialize};

use crate::{
    protocol::{Adapter, LocalWork, RoundId, SimTime},
    records::DropReason,
    transport::{Arrival, Transport},
};

/// What a server step waits for. All that is given holds: the step goes on with whatever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// So many reports: all that are under way where nothing is said. `FedBuff`'s K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u32>,
    /// So many simulated seconds after the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
    /// What becomes of those that the step did not wait for.
    #[serde(default)]
    pub late: Late,
}

/// What becomes of work that the server did not wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It is dropped, and the client may be selected again.
    #[default]
    Discard,
    /// It stays under way. Its delta counts in the step in which it arrives, `1 / (1 + τ)^exponent` times, τ being the server
    /// steps since the version that it started from (`FedBuff`, arXiv 2106.06639; its exponent is ½).
    Count {
        /// How fast a delta loses weight with its staleness; 0 is not at all.
        exponent: f64,
    },
}

impl Gather {
    /// Waits for every client.
    pub const BARRIER: Self = Self { first: None, deadline_seconds: None, late: Late::Discard };

    /// Returns whether the order of arrivals decides anything, which only simulated time settles the same way every time.
    pub(crate) fn needs_time(&self) -> bool {
        self.first.is_some() || self.deadline_seconds.is_some()
    }

    /// Returns what is wrong with it, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        if self.first == Some(0) {
            return Some("gather: expected first of at least 1, found 0".to_owned());
        }
        if let Some(seconds) = self.deadline_seconds.filter(|seconds| *seconds <= 0.0 || seconds.is_nan()) {
            return Some(format!("gather: expected deadline_seconds above 0, found {seconds}"));
        }
        match self.late {
            Late::Count { exponent } if !(exponent.is_finite() && exponent >= 0.0) => {
                Some(format!("gather: expected an exponent of 0 or more, found {exponent}"))
            }
            _ => None,
        }
    }

    /// Waits for arrivals until the step can go on, and returns them in order of client.
    pub(crate) async fn collect(
        &self,
        transport: &mut dyn Transport,
        mut notice: impl FnMut(&Arrival),
    ) -> Vec<Arrival> {
        let deadline = self.deadline_seconds.map_or(SimTime::NEVER, |seconds| transport.now().after(seconds));
        let mut arrivals = Vec::new();
        while self.waits(&arrivals) {
            let Some(arrival) = transport.next(deadline).await else { break };
            notice(&arrival);
            arrivals.push(arrival);
        }
        let late = self.leave_late(transport, deadline, &arrivals);
        late.iter().for_each(notice);
        arrivals.extend(late);
        arrivals.sort_by_key(|arrival| arrival.reported.client);
        arrivals
    }

    /// Returns whether there are fewer reports than the step waits for. Who was sent nothing has nothing to report.
    fn waits(&self, arrivals: &[Arrival]) -> bool {
        let reports = arrivals.iter().filter(|arrival| arrival.sent.is_some()).count();
        self.first.is_none_or(|first| reports < first as usize)
    }

    /// Returns those whom the step drops as late.
    fn leave_late(&self, transport: &mut dyn Transport, deadline: SimTime, arrivals: &[Arrival]) -> Vec<Arrival> {
        // Without a deadline nothing is under way when the step waits in vain.
        if self.waits(arrivals) && !transport.in_flight().is_empty() {
            transport.wait_until(deadline);
        }
        if self.late != Late::Discard {
            return Vec::new();
        }
        let dropped = |mut late: Arrival| {
            late.reported.answer = Err(DropReason::Late);
            late
        };
        transport.abandon().into_iter().map(dropped).collect()
    }

    /// Puts an update on the global adapter at hand, and returns its staleness τ.
    ///
    /// One that started from an older version becomes `global + s (adapter − sent)` with `s = 1 / (1 + τ)^exponent`; one of the
    /// version at hand is left as it is, to the bit. Where a client was sent fewer ranks, the others are the global adapter's: its
    /// delta is zero there. An adapter of another layout than was sent stays what it is, and is noted (invariant A-1).
    pub(crate) fn rebase(&self, arrival: &mut Arrival, round: RoundId, global: &Adapter) -> u32 {
        let Some((version, sent)) = &arrival.sent else { return 0 };
        let (staleness, weight) = match self.late {
            Late::Discard => (0, 1.0),
            Late::Count { exponent } => {
                let staleness = version.staleness_in(round);
                (staleness, (1.0 + f64::from(staleness)).powf(-exponent))
            }
        };
        let Ok(report) = &mut arrival.reported.answer else { return staleness };
        let LocalWork::Trained { training, .. } = &mut report.work else { return staleness };
        if let Some(difference) = sent.layout_difference(&training.adapter) {
            arrival.reported.misfit = Some(difference);
        } else if staleness > 0 {
            training.adapter = moved(global, sent, &training.adapter, weight);
        } else if sent.layout().len() < global.layout().len() {
            let local = &training.adapter;
            training.adapter = global.with_leading(local.layout(), |_, index| local.values()[index]);
        }
        staleness
    }
}

/// `global + weight (local − sent)` in the ranks that were sent, each number rounded once.
fn moved(global: &Adapter, sent: &Adapter, local: &Adapter, weight: f64) -> Adapter {
    let delta = |index: usize| f64::from(local.values()[index]) - f64::from(sent.values()[index]);
    global.with_leading(sent.layout(), |global, index| (f64::from(global) + weight * delta(index)) as f32)
}
