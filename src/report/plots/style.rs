//! Colours, sizes and markers.

use plotters::{
    element::{Circle, DynElement, IntoDynElement, PathElement, Polygon, Rectangle},
    style::{
        Color, IntoFont, RGBColor, ShapeStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::canvas::Backend;

/// Pixels of the drawing for one pixel of the plot: the drawing library knows whole pixels alone.
pub(super) const SCALE: i32 = 2;

/// The plot's width, in pixels of the drawing.
pub(super) const WIDTH: i32 = 720 * SCALE;

/// Stands for the colour of text; becomes `currentColor` in the finished plot.
pub(super) const INK: RGBColor = RGBColor(1, 2, 3);

/// Colours of series: each has a contrast of at least 3 on white and on the dark background.
pub(super) const SERIES: [RGBColor; 8] = [
    RGBColor(0x3b, 0x7d, 0xd8),
    RGBColor(0xd9, 0x6b, 0x0d),
    RGBColor(0x2a, 0x94, 0x55),
    RGBColor(0xa0, 0x5b, 0xc0),
    RGBColor(0xdb, 0x4b, 0x4b),
    RGBColor(0x1a, 0x8f, 0xa0),
    RGBColor(0xd1, 0x4c, 0x9a),
    RGBColor(0x8c, 0x86, 0x1e),
];

const MARKERS: usize = 5;

pub(super) const fn colour(series: usize) -> RGBColor {
    SERIES[series % SERIES.len()]
}

pub(super) fn grid() -> ShapeStyle {
    INK.mix(0.12).stroke_width(SCALE as u32)
}

pub(super) fn axis() -> ShapeStyle {
    INK.mix(0.45).stroke_width(SCALE as u32)
}

/// Text of so many pixels, hung at its position by `horizontal` and `vertical`.
pub(super) fn text(pixels: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let font = ("sans-serif", font_size(pixels)).into_font();
    TextStyle::from(font).color(&INK).pos(Pos::new(horizontal, vertical))
}

/// The backend divides sizes of fonts by this much.
fn font_size(pixels: i32) -> f64 {
    1.24 * f64::from(pixels * SCALE)
}

/// About how wide a text is, in pixels of the drawing. Nobody knows the viewer's font.
pub(super) fn text_width(text: &str, pixels: i32) -> i32 {
    (0.56 * f64::from(pixels * SCALE) * text.chars().count() as f64).round() as i32
}

/// A series' marker, `reach` pixels of the drawing in each direction.
pub(super) fn marker<'a>(series: usize, reach: i32, (x, y): (i32, i32)) -> DynElement<'a, Backend<'a>, (i32, i32)> {
    let colour = colour(series);
    let filled = colour.filled();
    // Colours repeat after 8 series and markers after 5: 40 series have a look of their own.
    match series % MARKERS {
        0 => Circle::new((x, y), reach, filled).into_dyn(),
        1 => Rectangle::new([(x - reach, y - reach), (x + reach, y + reach)], filled).into_dyn(),
        2 => Polygon::new([(x, y - reach), (x + reach, y + reach), (x - reach, y + reach)], filled).into_dyn(),
        3 => Polygon::new([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], filled).into_dyn(),
        _ => {
            let (left, right) = (x - reach, x + reach);
            let corners = [(left, y - reach), (right, y + reach), (x, y), (left, y + reach), (right, y - reach)];
            PathElement::new(corners, colour.stroke_width(2 * SCALE as u32)).into_dyn()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as the Web Content Accessibility Guidelines 2.2 define it.
    fn luminance(RGBColor(r, g, b): RGBColor) -> f64 {
        let linear = |channel: u8| {
            let share = f64::from(channel) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
    }

    #[test]
    fn every_series_is_visible_on_light_and_dark() {
        let dark = luminance(RGBColor(0x15, 0x17, 0x1a));
        for series in SERIES {
            let own = luminance(series);
            let (on_white, on_dark) = (1.05 / (own + 0.05), (own + 0.05) / (dark + 0.05));
            assert!(on_white >= 3.0 && on_dark >= 3.0, "{series:?}: {on_white:.2} on white, {on_dark:.2} on dark");
        }
    }
}
