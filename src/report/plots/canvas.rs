//! What all plots have in common: heading, legend, axes, and the way from the drawing to the finished SVG.

use std::io;

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Rectangle, Text},
    style::{
        Color,
        text_anchor::{HPos, VPos},
    },
};

use super::{
    Axis, PlotError, Svg,
    style::{self, SCALE, WIDTH},
};

pub(super) type Backend<'a> = SVGBackend<'a>;
pub(super) type Area<'a> = DrawingArea<Backend<'a>, Shift>;
pub(super) type Drawn<T> = Result<T, DrawingAreaErrorKind<io::Error>>;

/// Sizes of text, in pixels of the plot.
pub(super) const LABEL: i32 = 12;
const TITLE: i32 = 15;
const LEGEND: i32 = 13;

const LEGEND_ROW: i32 = 20 * SCALE;
const TITLE_ROW: i32 = 26 * SCALE;

/// Space above the first category.
const BARS_TOP: i32 = 4 * SCALE;

/// How a series is shown in the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Marker,
    Swatch,
}

/// Draws title and legend, and lets `draw` have what is left: `height` pixels of the drawing.
pub(super) fn plot(
    title: &str,
    legend: &[&str],
    key: Key,
    height: i32,
    draw: impl FnOnce(&Area<'_>) -> Drawn<()>,
) -> Result<Svg, PlotError> {
    let places = legend_places(legend);
    let rows = places.last().map_or(0, |&(_, row)| row + 1);
    let head = TITLE_ROW + rows * LEGEND_ROW;
    let mut text = String::new();
    let drawn = (|| {
        let root = SVGBackend::with_string(&mut text, (WIDTH as u32, (head + height) as u32)).into_drawing_area();
        root.draw(&Text::new(title.to_owned(), (0, 2 * SCALE), style::text(TITLE, HPos::Left, VPos::Top)))?;
        for (series, (name, (x, row))) in legend.iter().zip(places).enumerate() {
            let y = TITLE_ROW + row * LEGEND_ROW + LEGEND_ROW / 2;
            draw_key(&root, key, series, (x + 6 * SCALE, y))?;
            let place = (x + 16 * SCALE, y);
            root.draw(&Text::new((*name).to_owned(), place, style::text(LEGEND, HPos::Left, VPos::Center)))?;
        }
        draw(&root.split_vertically(head).1)?;
        root.present()
    })();
    drawn.map_err(|error| PlotError { title: title.to_owned(), reason: error.to_string() })?;
    Ok(finished(&text, title, head + height))
}

fn draw_key(root: &Area<'_>, key: Key, series: usize, (x, y): (i32, i32)) -> Drawn<()> {
    let reach = 5 * SCALE;
    match key {
        Key::Marker => root.draw(&style::marker(series, reach, (x, y))),
        Key::Swatch => {
            root.draw(&Rectangle::new([(x - reach, y - reach), (x + reach, y + reach)], style::colour(series).filled()))
        }
    }
}

/// Where each entry of the legend begins, and in which row.
fn legend_places(legend: &[&str]) -> Vec<(i32, i32)> {
    let (mut x, mut row) = (0, 0);
    let mut places = Vec::with_capacity(legend.len());
    for name in legend {
        let width = style::text_width(name, LEGEND) + 34 * SCALE;
        if x > 0 && x + width > WIDTH {
            (x, row) = (0, row + 1);
        }
        places.push((x, row));
        x += width;
    }
    places
}

/// What lies between the axes, in pixels of the drawing and in the units of the axes.
pub(super) struct Plane<'a> {
    /// Drawn on in pixels, from its own upper left corner.
    pub(super) area: Area<'a>,
    x: (f64, f64),
    y: (f64, f64),
}

/// An axis with its extent: what lies at the left and right end, or at the lower and upper one.
pub(super) type Scaled<'a> = (&'a Axis, (f64, f64));

/// Two axes with their ticks and grid.
pub(super) fn axes<'a>(area: &Area<'a>, x: Scaled<'_>, y: Scaled<'_>) -> Drawn<Plane<'a>> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(16 * SCALE)
        .margin_top(6 * SCALE)
        .x_label_area_size(42 * SCALE)
        .y_label_area_size(64 * SCALE)
        .build_cartesian_2d(x.1.0..x.1.1, y.1.0..y.1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(style::grid())
        .light_line_style(style::INK.mix(0.0))
        .axis_style(style::axis())
        .label_style(style::text(LABEL, HPos::Center, VPos::Center))
        .axis_desc_style(style::text(LABEL, HPos::Center, VPos::Center))
        .x_labels(x.0.tick_count(x.1))
        .y_labels(y.0.tick_count(y.1))
        .x_label_formatter(&|value| x.0.format(*value))
        .y_label_formatter(&|value| y.0.format(*value))
        .x_desc(x.0.label.as_str())
        .y_desc(y.0.label.as_str())
        .draw()?;
    Ok(Plane { area: chart.plotting_area().strip_coord_spec(), x: x.1, y: y.1 })
}

/// One axis of values at the bottom, and so many categories downwards, each one unit high, with their names at the left.
pub(super) fn category_axes<'a>(area: &Area<'a>, values: Scaled<'_>, categories: &[String]) -> Drawn<Plane<'a>> {
    let widest = categories.iter().map(|name| style::text_width(name, LABEL)).max().unwrap_or(0);
    let label_width = (widest + 14 * SCALE).min(WIDTH / 2);
    let y = (categories.len() as f64, 0.0);
    let mut chart = ChartBuilder::on(area)
        .margin_right(48 * SCALE)
        .margin_top(BARS_TOP)
        .x_label_area_size(42 * SCALE)
        .y_label_area_size(label_width)
        .build_cartesian_2d(values.1.0..values.1.1, y.0..y.1)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .bold_line_style(style::grid())
        .light_line_style(style::INK.mix(0.0))
        .axis_style(style::axis())
        .label_style(style::text(LABEL, HPos::Center, VPos::Center))
        .axis_desc_style(style::text(LABEL, HPos::Center, VPos::Center))
        .x_labels(values.0.tick_count(values.1))
        .y_labels(0)
        .x_label_formatter(&|value| values.0.format(*value))
        .x_desc(values.0.label.as_str())
        .draw()?;
    let plane = Plane { area: chart.plotting_area().strip_coord_spec(), x: values.1, y };
    for (category, name) in categories.iter().enumerate() {
        // Outside of the plane, which draws nothing beyond its edges.
        let (_, middle) = plane.at((values.1.0, category as f64 + 0.5));
        let place = (label_width - 8 * SCALE, BARS_TOP + middle);
        area.draw(&Text::new(name.clone(), place, style::text(LABEL, HPos::Right, VPos::Center)))?;
    }
    Ok(plane)
}

impl Plane<'_> {
    /// Where a point lies.
    pub(super) fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let (width, height) = self.area.dim_in_pixel();
        let pixel = |value: f64, (low, high): (f64, f64), size: u32| (value - low) / (high - low) * f64::from(size);
        (pixel(x, self.x, width).round() as i32, (f64::from(height) - pixel(y, self.y, height)).round() as i32)
    }

    /// Writes a label at a pixel, centred in height.
    pub(super) fn write(&self, label: &str, place: (i32, i32), horizontal: HPos) -> Drawn<()> {
        self.area.draw(&Text::new(label.to_owned(), place, style::text(LABEL, horizontal, VPos::Center)))
    }
}

/// Says that there is nothing to see, where the plot would be.
pub(super) fn nothing(area: &Area<'_>) -> Drawn<()> {
    let (width, height) = area.dim_in_pixel();
    let place = (width as i32 / 2, height as i32 / 2);
    area.draw(&Text::new("not measured", place, style::text(LEGEND, HPos::Center, VPos::Center)))
}

/// The drawing with its ink the colour of text and its title readable to machines.
fn finished(drawing: &str, title: &str, height: i32) -> Svg {
    let ink = format!("#{:02X}{:02X}{:02X}", style::INK.0, style::INK.1, style::INK.2);
    let drawing = drawing.replace(&ink, "currentColor");
    let start = drawing.find(" viewBox=").unwrap_or(0);
    let name = title.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    Svg {
        role: format!("role=\"img\" aria-label=\"{name}\""),
        size: (WIDTH / SCALE, height / SCALE),
        drawing: drawing[start..].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_breaks_into_rows_before_it_leaves_the_plot() {
        assert_eq!(legend_places(&["a", "b"]), [(0, 0), (style::text_width("a", LEGEND) + 34 * SCALE, 0)]);
        let long = "a name of forty letters and one or two more";
        let places = legend_places(&[long; 5]);
        assert_eq!(places.last().unwrap().1, 2, "{places:?}");
        let right = |x: i32| x + style::text_width(long, LEGEND) + 34 * SCALE;
        assert!(places.iter().all(|&(x, _)| right(x) <= WIDTH), "{places:?}");
    }
}
