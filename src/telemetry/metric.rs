//! What a metric is: a name, a kind, a unit, labels, help; and how one is recorded.

use metrics::{Key, Label, Level, Metadata, Recorder};

/// What a metric's values count or measure; it is part of the metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Whatever the name says: rounds, clients, rows.
    Count,
    /// Time.
    Seconds,
    /// Size.
    Bytes,
    /// Tokens of the base model.
    Tokens,
    /// Throughput.
    TokensPerSecond,
    /// A number without a unit: a loss, a norm, a score, a flag.
    Dimensionless,
}

impl Unit {
    /// How the name of a metric in this unit ends, not counting `_total`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Count | Self::Dimensionless => "",
            Self::Seconds => "_seconds",
            Self::Bytes => "_bytes",
            Self::Tokens => "_tokens",
            Self::TokensPerSecond => "_tokens_per_second",
        }
    }
}

/// How a metric's values behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by upper bound; the bounds, ascending.
    Histogram(&'static [f64]),
}

/// One metric as declared, whatever its kind.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// Its label names.
    pub labels: &'static [&'static str],
    /// What it tells, for people.
    pub help: &'static str,
}

/// A declared counter with `N` labels.
#[derive(Clone, Copy, Debug)]
pub struct Counter<const N: usize>(pub Declaration, pub [&'static str; N]);

/// A declared gauge with `N` labels.
#[derive(Clone, Copy, Debug)]
pub struct Gauge<const N: usize>(pub Declaration, pub [&'static str; N]);

/// A declared histogram with `N` labels.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<const N: usize>(pub Declaration, pub [&'static str; N]);

impl<const N: usize> Counter<N> {
    /// Adds to the counter with these label values, in the order of the declaration. Adding 0 makes it visible.
    pub fn add(&self, recorder: &impl Recorder, values: [&str; N], amount: u64) {
        recorder.register_counter(&key(self.0.name, self.1, values), &METADATA).increment(amount);
    }
}

impl<const N: usize> Gauge<N> {
    /// Sets the gauge with these label values, in the order of the declaration.
    pub fn set(&self, recorder: &impl Recorder, values: [&str; N], value: f64) {
        recorder.register_gauge(&key(self.0.name, self.1, values), &METADATA).set(value);
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts one value under these label values, in the order of the declaration.
    pub fn record(&self, recorder: &impl Recorder, values: [&str; N], value: f64) {
        recorder.register_histogram(&key(self.0.name, self.1, values), &METADATA).record(value);
    }
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn key<const N: usize>(name: &'static str, names: [&'static str; N], values: [&str; N]) -> Key {
    let labels: Vec<Label> =
        names.into_iter().zip(values).map(|(name, value)| Label::new(name, value.to_owned())).collect();
    Key::from_parts(name, labels)
}

/// Declares metrics as constants and lists them all in `ALL`, so that none is declared without being described.
macro_rules! declare {
    ($($constant:ident: $kind:ident($($buckets:expr)?), $name:literal, $unit:ident, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: $kind<{ <[&str]>::len(&[$($label),*]) }> = $kind(
                Declaration {
                    name: $name,
                    kind: Kind::$kind$(($buckets))?,
                    unit: Unit::$unit,
                    labels: &[$($label),*],
                    help: $help,
                },
                [$($label),*],
            );
        )+

        /// Every metric.
        pub const ALL: &[Declaration] = &[$($constant.0),+];
    };
}
pub(super) use declare;
