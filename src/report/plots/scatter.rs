//! Points with names, such as configurations by what they give and what they cost.

use plotters::{
    element::PathElement,
    style::{Color, text_anchor::HPos},
};

use super::{
    Axis, PlotError, Svg,
    canvas::{self, Area, Drawn, Key, LABEL},
    style::{self, SCALE},
};

/// Points with names.
#[derive(Clone, Debug, PartialEq)]
pub struct ScatterChart {
    /// What the plot shows.
    pub title: String,
    /// What is measured from left to right.
    pub x: Axis,
    /// What is measured upwards.
    pub y: Axis,
    /// The points.
    pub points: Vec<LabelledPoint>,
}

/// A point with its name and, where they are known, its intervals.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelledPoint {
    /// Written beside it.
    pub label: String,
    /// From left to right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// Lower and upper end of the interval of `x`.
    pub x_interval: Option<(f64, f64)>,
    /// Lower and upper end of the interval of `y`.
    pub y_interval: Option<(f64, f64)>,
}

const HEIGHT: i32 = 360 * SCALE;
const REACH: i32 = 5 * SCALE;

impl ScatterChart {
    /// Draws the plot.
    ///
    /// # Errors
    ///
    /// [`PlotError`]: a bug.
    pub fn render(&self) -> Result<Svg, PlotError> {
        canvas::plot(&self.title, &[], Key::Marker, HEIGHT, |area| self.draw(area))
    }

    fn draw(&self, area: &Area<'_>) -> Drawn<()> {
        let is_finite = |point: &&LabelledPoint| point.x.is_finite() && point.y.is_finite();
        let points: Vec<&LabelledPoint> = self.points.iter().filter(is_finite).collect();
        if points.is_empty() {
            return canvas::nothing(area);
        }
        let spread = |value: f64, interval: Option<(f64, f64)>| {
            let (low, high) = interval.unwrap_or((value, value));
            [value, low, high]
        };
        let x = self.x.extent(points.iter().flat_map(|point| spread(point.x, point.x_interval)));
        let y = self.y.extent(points.iter().flat_map(|point| spread(point.y, point.y_interval)));
        let plane = canvas::axes(area, (&self.x, x), (&self.y, y))?;
        let spot = |point: &&LabelledPoint| Spot {
            at: plane.at((point.x, point.y)),
            label_width: style::text_width(&point.label, LABEL),
        };
        let spots: Vec<Spot> = points.iter().map(spot).collect();
        let sides = sides(&spots, plane.area.dim_in_pixel().0 as i32);
        for (series, point) in points.iter().enumerate() {
            let stroke = style::colour(series).mix(0.5).stroke_width(SCALE as u32);
            if let Some((low, high)) = point.x_interval {
                let ends = [plane.at((low, point.y)), plane.at((high, point.y))];
                plane.area.draw(&PathElement::new(ends, stroke))?;
            }
            if let Some((low, high)) = point.y_interval {
                let ends = [plane.at((point.x, low)), plane.at((point.x, high))];
                plane.area.draw(&PathElement::new(ends, stroke))?;
            }
            let (x, y) = spots[series].at;
            plane.area.draw(&style::marker(series, REACH, (x, y)))?;
            let ((dx, dy), horizontal) = sides[series].hangs();
            plane.write(&point.label, (x + dx, y + dy), horizontal)?;
        }
        Ok(())
    }
}

/// A point in pixels of the drawing, with the width of its label.
#[derive(Clone, Copy, Debug)]
struct Spot {
    at: (i32, i32),
    label_width: i32,
}

/// On which side of its point a label stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Right,
    Left,
    Above,
    Below,
}

impl Side {
    const ALL: [Self; 4] = [Self::Right, Self::Left, Self::Above, Self::Below];

    /// Where the label hangs, seen from its point, and by which end.
    const fn hangs(self) -> ((i32, i32), HPos) {
        let gap = REACH + 4 * SCALE;
        match self {
            Self::Right => ((gap, 0), HPos::Left),
            Self::Left => ((-gap, 0), HPos::Right),
            Self::Above => ((0, -gap - 3 * SCALE), HPos::Center),
            Self::Below => ((0, gap + 3 * SCALE), HPos::Center),
        }
    }

    /// The label's box: left, top, right, bottom.
    fn covers(self, spot: Spot) -> [i32; 4] {
        let ((dx, dy), horizontal) = self.hangs();
        let (x, y) = (spot.at.0 + dx, spot.at.1 + dy);
        let left = match horizontal {
            HPos::Left => x,
            HPos::Right => x - spot.label_width,
            HPos::Center => x - spot.label_width / 2,
        };
        let half = (LABEL * SCALE + 1) / 2;
        [left, y - half, left + spot.label_width, y + half]
    }
}

/// A side for each label such that it hides neither another label nor a point, as far as there is one; first come, first served.
fn sides(spots: &[Spot], width: i32) -> Vec<Side> {
    let point = |spot: &Spot| [spot.at.0 - REACH, spot.at.1 - REACH, spot.at.0 + REACH, spot.at.1 + REACH];
    let mut taken: Vec<[i32; 4]> = spots.iter().map(point).collect();
    let mut sides = Vec::with_capacity(spots.len());
    for &spot in spots {
        let collisions = |side: &Side| {
            let own = side.covers(spot);
            let outside = usize::from(own[0] < 0 || own[2] > width);
            outside + taken.iter().filter(|other| overlap(own, **other)).count()
        };
        let side = Side::ALL.into_iter().min_by_key(collisions).unwrap_or(Side::Right);
        taken.push(side.covers(spot));
        sides.push(side);
    }
    sides
}

const fn overlap(a: [i32; 4], b: [i32; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_clear_of_each_other_of_points_and_of_the_edge() {
        let spot = |x, y| Spot { at: (x, y), label_width: 100 };
        assert_eq!(sides(&[spot(300, 50)], 1000), [Side::Right]);
        assert_eq!(sides(&[spot(950, 50)], 1000), [Side::Left]);
        // The second point stands where the first one's label would.
        let crowd = [spot(300, 50), spot(360, 50), spot(330, 52)];
        let chosen = sides(&crowd, 1000);
        let boxes: Vec<_> = chosen.iter().zip(crowd).map(|(side, spot)| side.covers(spot)).collect();
        for (index, own) in boxes.iter().enumerate() {
            assert!(boxes[..index].iter().all(|other| !overlap(*own, *other)), "{chosen:?} {boxes:?}");
        }
        assert_eq!(chosen[0], Side::Left);
    }
}
