//! Horizontal bars, stacked or side by side: names of any length stay readable.

use plotters::{
    element::{PathElement, Rectangle},
    style::{Color, text_anchor::HPos},
};

use super::{
    Axis, PlotError, Svg,
    canvas::{self, Area, Drawn, Key},
    style::{self, SCALE},
};

/// How the bars of a category stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bars {
    /// End to end: parts of a whole.
    Stacked,
    /// One below the other.
    Grouped,
}

/// Horizontal bars, a group for each category.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// What the plot shows.
    pub title: String,
    /// What is measured; begins at 0 unless its range says otherwise.
    pub value: Axis,
    /// Names of the categories, from top to bottom.
    pub categories: Vec<String>,
    /// One value a category each; they appear in the legend if there are several.
    pub series: Vec<BarSeries>,
    /// How the bars of a category stand.
    pub bars: Bars,
}

/// A bar in each category.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarSeries {
    /// Its name in the legend.
    pub name: String,
    /// One value a category, in their order; missing where it was not measured. Not negative.
    pub values: Vec<Option<f64>>,
    /// Lower and upper end of the interval of each value; empty or missing where none is known.
    pub intervals: Vec<Option<(f64, f64)>>,
}

impl BarSeries {
    /// The value in a category, if it is one.
    fn value(&self, category: usize) -> Option<f64> {
        self.values.get(category).copied().flatten().filter(|value| value.is_finite())
    }

    fn interval(&self, category: usize) -> Option<(f64, f64)> {
        self.intervals.get(category).copied().flatten().filter(|(low, high)| (low + high).is_finite())
    }
}

/// One bar, in the units of the axes.
struct Bar {
    series: usize,
    from: f64,
    to: f64,
    top: f64,
    bottom: f64,
    interval: Option<(f64, f64)>,
}

impl BarChart {
    /// Draws the plot.
    ///
    /// # Errors
    ///
    /// [`PlotError`]: a bug.
    pub fn render(&self) -> Result<Svg, PlotError> {
        let names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        let legend = if names.len() > 1 { names.as_slice() } else { &[] };
        canvas::plot(&self.title, legend, Key::Swatch, self.height(), |area| self.draw(area))
    }

    fn height(&self) -> i32 {
        let bars = match self.bars {
            Bars::Stacked => 1,
            Bars::Grouped => self.series.len().max(1),
        };
        let group = 12 * SCALE + 18 * SCALE * bars as i32;
        54 * SCALE + group * self.categories.len().max(1) as i32
    }

    fn draw(&self, area: &Area<'_>) -> Drawn<()> {
        let bars = self.laid_out();
        if bars.is_empty() {
            return canvas::nothing(area);
        }
        let ends = bars.iter().flat_map(|bar| [bar.to, bar.interval.map_or(bar.to, |interval| interval.1)]);
        let axis = if self.value.range.is_some() { self.value.clone() } else { self.value.clone().from_zero(ends) };
        let plane = canvas::category_axes(area, (&axis, axis.extent([])), &self.categories)?;
        for (index, bar) in bars.iter().enumerate() {
            let corners = [plane.at((bar.from, bar.top)), plane.at((bar.to, bar.bottom))];
            plane.area.draw(&Rectangle::new(corners, style::colour(bar.series).filled()))?;
            let middle = f64::midpoint(bar.top, bar.bottom);
            if let Some((low, high)) = bar.interval {
                let ends = [plane.at((low, middle)), plane.at((high, middle))];
                plane.area.draw(&PathElement::new(ends, style::INK.mix(0.7).stroke_width(SCALE as u32 + 1)))?;
            }
            let ends_stack = bars.get(index + 1).is_none_or(|next| (next.top - bar.top).abs() > 1e-9);
            if ends_stack {
                let (x, y) = plane.at((bar.interval.map_or(bar.to, |(_, high)| high.max(bar.to)), middle));
                plane.write(&axis.format(bar.to), (x + 6 * SCALE, y), HPos::Left)?;
            }
        }
        Ok(())
    }

    /// Every bar, category by category.
    fn laid_out(&self) -> Vec<Bar> {
        let rows = match self.bars {
            Bars::Stacked => 1.0,
            Bars::Grouped => self.series.len() as f64,
        };
        let (space, mut bars) = (0.2, Vec::new());
        for category in 0..self.categories.len() {
            let mut from = 0.0;
            for (series, values) in self.series.iter().enumerate() {
                let Some(value) = values.value(category) else { continue };
                let row = if self.bars == Bars::Stacked { 0.0 } else { series as f64 };
                let height = (1.0 - 2.0 * space) / rows;
                let top = category as f64 + space + row * height;
                let interval = values.interval(category);
                bars.push(Bar { series, from, to: from + value, top, bottom: top + 0.94 * height, interval });
                if self.bars == Bars::Stacked {
                    from += value;
                }
            }
        }
        bars
    }
}
