//! Plots as SVG: lines with bands, labelled points, bars. Drawn without fonts: the viewer sets the text.
//!
//! A plot is data with names; [`LineChart::render`] and its like turn it into an [`Svg`], for a page or for a file of its
//! own. Values that are not finite are left out. Series differ in colour and in marker, so that no plot needs its colours.

mod bars;
mod canvas;
mod line;
mod scatter;
mod style;

use std::fmt;

pub use bars::{BarChart, BarSeries, Bars};
pub use line::{BandPoint, Line, LineChart};
pub use scatter::{LabelledPoint, ScatterChart};

/// A drawing failed: a bug, for nothing but memory is written to.
#[derive(Debug, thiserror::Error)]
#[error("plot {title:?} could not be drawn: {reason}")]
pub struct PlotError {
    /// The plot's title.
    pub title: String,
    /// What the drawing library says.
    pub reason: String,
}

/// A finished plot. Text and axes have the colour of the text around them, whatever that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svg {
    /// Attributes of the element that tell what it is.
    role: String,
    /// In pixels.
    size: (i32, i32),
    /// The other attributes and the content.
    drawing: String,
}

/// Colours of a plot that stands alone, for light and dark displays.
const OWN_COLOURS: &str = "<style>svg{color:#1c1e21;background:#fff}\
    @media (prefers-color-scheme:dark){svg{color:#e4e6eb;background:#15171a}}</style>";

impl Svg {
    /// The element to be put into a page: as wide as there is room, up to its own width.
    pub fn inline(&self) -> String {
        let Self { role, size: (width, _), drawing } = self;
        format!("<svg {role} style=\"width:100%;max-width:{width}px\"{drawing}")
    }

    /// A file of its own, light or dark as its viewer likes it.
    pub fn standalone(&self) -> String {
        let Self { role, size: (width, height), drawing } = self;
        let (attributes, content) = drawing.split_once('>').unwrap_or((drawing, ""));
        format!("<svg {role} width=\"{width}\" height=\"{height}\"{attributes}>\n{OWN_COLOURS}{content}")
    }
}

/// What the numbers of an axis are, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticks {
    /// Numbers of any kind.
    Number,
    /// Whole numbers, such as rounds: there is no tick between two of them.
    Whole,
    /// Shares from 0 to 1, written as percentages.
    Share,
}

/// One axis of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What is measured, with its unit.
    pub label: String,
    /// How numbers are written.
    pub ticks: Ticks,
    /// From where to where; `None` is as far as the values go.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// An axis as long as its values ask for.
    pub fn new(label: impl Into<String>, ticks: Ticks) -> Self {
        Self { label: label.into(), ticks, range: None }
    }

    /// An axis of shares, from 0 to 1 whatever the values.
    pub fn share(label: impl Into<String>) -> Self {
        Self { label: label.into(), ticks: Ticks::Share, range: Some((0.0, 1.0)) }
    }

    /// An axis that begins at 0 and ends above the highest of `values`.
    #[must_use]
    pub fn from_zero(mut self, values: impl IntoIterator<Item = f64>) -> Self {
        let highest = values.into_iter().filter(|value| value.is_finite()).fold(0.0, f64::max);
        self.range = Some((0.0, if highest > 0.0 { 1.05 * highest } else { 1.0 }));
        self
    }

    /// From where to where the axis goes when these are its values.
    fn extent(&self, values: impl IntoIterator<Item = f64>) -> (f64, f64) {
        if let Some(range) = self.range {
            return range;
        }
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return (0.0, 1.0);
        }
        let margin = match (high - low, self.ticks) {
            (0.0, Ticks::Whole) => 1.0,
            (0.0, _) => low.abs().max(1.0) * 0.1,
            (width, _) => 0.05 * width,
        };
        (low - margin, high + margin)
    }

    /// How many ticks fit.
    fn tick_count(&self, (low, high): (f64, f64)) -> usize {
        match self.ticks {
            Ticks::Whole => ((high - low).floor() as usize + 1).clamp(2, 10),
            Ticks::Number | Ticks::Share => 6,
        }
    }

    fn format(&self, value: f64) -> String {
        match self.ticks {
            Ticks::Whole if (value - value.round()).abs() > 1e-6 => String::new(),
            Ticks::Whole => format!("{value:.0}"),
            Ticks::Share => format!("{:.0}%", 100.0 * value),
            Ticks::Number => number(value).to_string(),
        }
    }
}

/// A number in as few digits as tell it: three significant ones, grouped thousands above.
pub fn number(value: f64) -> impl fmt::Display {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    match magnitude {
        4.. => grouped(value),
        0..=3 => trimmed(format!("{value:.*}", (2 - magnitude).max(0) as usize)),
        -4..=-1 => trimmed(format!("{value:.*}", (2 - magnitude) as usize)),
        _ => format!("{value:.1e}"),
    }
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests;
