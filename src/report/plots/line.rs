//! Lines over a common axis, each with a band of uncertainty where there is one.

use plotters::{
    element::{PathElement, Polygon},
    style::Color,
};

use super::{
    Axis, PlotError, Svg,
    canvas::{self, Area, Drawn, Key},
    style::{self, SCALE},
};

/// Lines over a common axis.
#[derive(Clone, Debug, PartialEq)]
pub struct LineChart {
    /// What the plot shows.
    pub title: String,
    /// The axis that all lines share.
    pub x: Axis,
    /// What is measured.
    pub y: Axis,
    /// The lines; they appear in the legend if there are several.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// The interval around it, from left to right; empty where none is known.
    pub band: Vec<BandPoint>,
}

/// An interval at one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BandPoint {
    /// Where.
    pub x: f64,
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

const HEIGHT: i32 = 280 * SCALE;

impl LineChart {
    /// Draws the plot.
    ///
    /// # Errors
    ///
    /// [`PlotError`]: a bug.
    pub fn render(&self) -> Result<Svg, PlotError> {
        let names: Vec<&str> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let legend = if names.len() > 1 { names.as_slice() } else { &[] };
        canvas::plot(&self.title, legend, Key::Marker, HEIGHT, |area| self.draw(area))
    }

    fn draw(&self, area: &Area<'_>) -> Drawn<()> {
        let finite: Vec<Line> = self.lines.iter().map(Line::finite).collect();
        if finite.iter().all(|line| line.points.is_empty()) {
            return canvas::nothing(area);
        }
        let x = self.x.extent(finite.iter().flat_map(|line| line.points.iter().map(|point| point.0)));
        let y = self.y.extent(finite.iter().flat_map(Line::heights));
        let plane = canvas::axes(area, (&self.x, x), (&self.y, y))?;
        for (series, line) in finite.iter().enumerate() {
            let colour = style::colour(series);
            match line.band.as_slice() {
                [] => {}
                [only] => {
                    let ends = [plane.at((only.x, only.low)), plane.at((only.x, only.high))];
                    plane.area.draw(&PathElement::new(ends, colour.mix(0.6).stroke_width(2 * SCALE as u32)))?;
                }
                band => {
                    let outline: Vec<_> = outline(band).map(|point| plane.at(point)).collect();
                    plane.area.draw(&Polygon::new(outline, colour.mix(0.15).filled()))?;
                }
            }
        }
        // Above all bands, so that no line is veiled.
        for (series, line) in finite.iter().enumerate() {
            let points: Vec<_> = line.points.iter().map(|&point| plane.at(point)).collect();
            let reach = if points.len() > 60 { SCALE } else { 4 * SCALE };
            for &point in &points {
                plane.area.draw(&style::marker(series, reach, point))?;
            }
            plane.area.draw(&PathElement::new(points, style::colour(series).stroke_width(2 * SCALE as u32)))?;
        }
        Ok(())
    }
}

impl Line {
    /// The line without what is not finite.
    fn finite(&self) -> Self {
        Self {
            name: self.name.clone(),
            points: self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect(),
            band: self.band.iter().copied().filter(|at| (at.x + at.low + at.high).is_finite()).collect(),
        }
    }

    fn heights(&self) -> impl Iterator<Item = f64> {
        let band = self.band.iter().flat_map(|at| [at.low, at.high]);
        self.points.iter().map(|point| point.1).chain(band)
    }
}

/// The upper ends from left to right, then the lower ones back.
fn outline(band: &[BandPoint]) -> impl Iterator<Item = (f64, f64)> {
    let upper = band.iter().map(|at| (at.x, at.high));
    upper.chain(band.iter().rev().map(|at| (at.x, at.low)))
}
