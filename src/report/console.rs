//! Progress on stderr: bars on a terminal, plain lines elsewhere.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fedward_actors::{
    ports::Observer,
    records::{ClientOutcome, Phase, RoundEvent, RoundOutcome, RoundRecord},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{eval::measure::HEADLINE, progress::Progress};

/// Seconds between two plain lines about the same piece of work.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes a line to stderr. Nobody may be there to read it: a pipe that was closed ends no run.
pub(crate) fn tell(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Tells people on stderr what is going on.
pub struct Console {
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    stage: String,
    /// Empty for a stage without parts.
    part: String,
    last_line: Instant,
    finished_clients: u32,
    cohort: u32,
}

impl State {
    fn what(&self) -> String {
        if self.part.is_empty() { self.stage.clone() } else { format!("{}: {}", self.stage, self.part) }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// A console on stderr.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(spinner());
        let state = State {
            stage: String::new(),
            part: String::new(),
            last_line: Instant::now(),
            finished_clients: 0,
            cohort: 0,
        };
        Self { bar, state: Mutex::new(state) }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        if self.is_terminal() {
            self.bar.println(text);
        } else {
            tell!("{text}");
        }
    }

    /// Does what writes to a terminal by other ways, with the bar out of its way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A bar that counts nothing yet.
    fn begin(&self, what: String) {
        self.bar.set_style(spinner());
        self.bar.set_length(0);
        self.bar.set_position(0);
        self.bar.reset_eta();
        self.bar.set_message(what);
        self.bar.enable_steady_tick(Duration::from_millis(125));
    }

    fn is_terminal(&self) -> bool {
        !self.bar.is_hidden()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Console {
    fn line(&self, text: &str) {
        Self::line(self, text);
    }

    fn stage(&self, what: &str) {
        let mut state = self.state();
        what.clone_into(&mut state.stage);
        state.part.clear();
        state.last_line = Instant::now();
        if self.is_terminal() {
            self.begin(what.to_owned());
        } else {
            tell!("{what} …");
        }
    }

    fn part(&self, what: &str) {
        let mut state = self.state();
        what.clone_into(&mut state.part);
        if self.is_terminal() {
            self.begin(state.what());
        }
    }

    fn step(&self, done: u64, total: u64) {
        if self.is_terminal() {
            if self.bar.length() != Some(total) {
                self.bar.set_style(counter());
                self.bar.set_length(total);
            }
            self.bar.set_position(done);
            return;
        }
        let mut state = self.state();
        // Parts are many: each has lines while it lasts, none for its end.
        let is_end = done == total && state.part.is_empty();
        if is_end || state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            tell!("{}: {done} of {total}", state.what());
        }
    }
}

impl Observer for Console {
    fn observe(&self, event: &RoundEvent) {
        match event {
            RoundEvent::RoundStarted { cohort, .. } => {
                let mut state = self.state();
                (state.finished_clients, state.cohort) = (0, *cohort);
            }
            RoundEvent::PhaseStarted { round, phase } => {
                let what = match phase {
                    Phase::Train => "clients filter and train",
                    Phase::Aggregate | Phase::Commit => return,
                    Phase::Align => "Constitutional AI realigns the global adapter",
                    Phase::Evaluate => "evaluating the global adapter",
                };
                self.stage(&format!("{round}: {what}"));
            }
            RoundEvent::ClientReported { .. } => {
                let (done, total) = {
                    let mut state = self.state();
                    state.finished_clients += 1;
                    (state.finished_clients, state.cohort)
                };
                self.step(u64::from(done), u64::from(total));
            }
            RoundEvent::ClientFinished(record) => {
                if let ClientOutcome::Rejected(_) | ClientOutcome::Dropped(_) = record.outcome {
                    self.line(&format!("{}: {} {}", record.round, record.client, record.outcome));
                }
            }
            RoundEvent::ActorRestarted { kind } => self.line(&format!("a {kind} actor died and was started again")),
            // Part of the round's line.
            RoundEvent::Realigned(_) => {}
            RoundEvent::RoundFinished(record) => self.line(&round_line(record)),
        }
    }
}

/// One round in one line, with what went wrong below it.
fn round_line(record: &RoundRecord) -> String {
    let round = match &record.outcome {
        RoundOutcome::Committed => format!("{}:", record.round),
        RoundOutcome::Skipped(reason) => format!("{} skipped ({reason}):", record.round),
        RoundOutcome::Failed(reason) => format!("{} failed ({reason}):", record.round),
    };
    let parts = [updates_of(record), rows_of(record), training_of(record), realignment_of(record), headline_of(record)];
    let mut line = format!("{round} {}, {:.1} s", parts.concat(), record.seconds.total());
    if !record.faults.is_empty() {
        let faults: Vec<_> = record.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        line.push_str("\n  put in on purpose: ");
        line.push_str(&faults.join(", "));
    }
    for warning in &record.warnings {
        line.push_str("\n  warning: ");
        line.push_str(warning);
    }
    line
}

fn updates_of(record: &RoundRecord) -> String {
    let clipped = if record.clipped > 0 { format!(" ({} clipped)", record.clipped) } else { String::new() };
    format!("{} of {} updates{clipped}", record.accepted, record.cohort.len())
}

/// What the guard did with rows.
fn rows_of(record: &RoundRecord) -> String {
    let rows = &record.rows;
    let fates = [(rows.filtered, "filtered"), (rows.replaced, "replaced by refusals"), (rows.reweighted, "reweighted")];
    let fates = fates.into_iter().filter(|(count, _)| *count > 0);
    let mut told: Vec<_> = fates.map(|(count, fate)| format!(", {count} of {} rows {fate}", rows.all())).collect();
    if rows.malformed > 0 {
        told.push(format!(" ({} by answers of the guard that could not be read)", rows.malformed));
    }
    if rows.cut > 0 {
        told.push(format!(", {} too long for the guard and read in part", rows.cut));
    }
    told.concat()
}

fn training_of(record: &RoundRecord) -> String {
    let loss = record.train_loss.map(|loss| format!(", loss {loss:.3}")).unwrap_or_default();
    let cohort = record.cohort.len();
    let reused = match record.trainings_reused {
        0 => String::new(),
        all if all == cohort as u32 => " (training reused)".to_owned(),
        some => format!(" ({some} of {cohort} trainings reused)"),
    };
    format!("{loss}, {} tokens{reused}", record.train_tokens)
}

fn realignment_of(record: &RoundRecord) -> String {
    let Some(align) = &record.align else { return String::new() };
    let pairs = align.preference.as_ref().map(|preference| format!(", {} pairs", preference.pairs));
    format!(", {} revisions, {} answers kept{}", align.revisions, align.good_answers, pairs.unwrap_or_default())
}

fn headline_of(record: &RoundRecord) -> String {
    let Some(rate) = HEADLINE.read(&record.eval) else { return String::new() };
    let n = HEADLINE.count(&record.eval).unwrap_or_default();
    format!(", {} {rate:.2} (n={n})", HEADLINE.headline.unwrap_or(HEADLINE.name))
}

fn spinner() -> ProgressStyle {
    style("{spinner} {msg} [{elapsed}]")
}

fn counter() -> ProgressStyle {
    style("{spinner} {msg} {bar:24} {pos}/{len} [{elapsed}, {eta} left]")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Several observers as one.
pub struct Observers(pub Vec<Arc<dyn Observer>>);

impl Observer for Observers {
    fn observe(&self, event: &RoundEvent) {
        for observer in &self.0 {
            observer.observe(event);
        }
    }
}
