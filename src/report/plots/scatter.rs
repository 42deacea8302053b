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
        let (width, height) = plane.area.dim_in_pixel();
        let places = places(&spots, (width as i32, height as i32));
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
            let ((dx, dy), horizontal) = places[series].hangs();
            if places[series].lines != 0 {
                // Further off a label could be taken for another point's.
                let leader = style::colour(series).mix(0.6).stroke_width(SCALE as u32);
                plane.area.draw(&PathElement::new([(x, y), (x + dx, y + dy)], leader))?;
            }
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

/// Where a label stands, seen from its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    side: Side,
    /// Lines below where it would stand alone; above, if negative.
    lines: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Right,
    Left,
    Middle,
}

/// How far from its point a label may stand, in lines.
const MOST_LINES: i32 = 4;

impl Place {
    /// All places, the nearest first.
    fn all() -> impl Iterator<Item = Self> {
        (0..=MOST_LINES).flat_map(|distance| {
            [-distance, distance].into_iter().flat_map(move |lines| {
                [Side::Right, Side::Left, Side::Middle]
                    .into_iter()
                    .filter(move |&side| side != Side::Middle || lines != 0)
                    .map(move |side| Self { side, lines })
            })
        })
    }

    /// Where the label hangs, and by which end.
    const fn hangs(self) -> ((i32, i32), HPos) {
        let gap = REACH + 4 * SCALE;
        let down = self.lines * (LABEL + 2) * SCALE;
        match self.side {
            Side::Right => ((gap, down), HPos::Left),
            Side::Left => ((-gap, down), HPos::Right),
            Side::Middle => ((0, down), HPos::Center),
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

/// The nearest place for each label such that it hides neither another label nor a point nor leaves the drawing, as far as there
/// is one; first come, first served.
fn places(spots: &[Spot], (width, height): (i32, i32)) -> Vec<Place> {
    let point = |spot: &Spot| [spot.at.0 - REACH, spot.at.1 - REACH, spot.at.0 + REACH, spot.at.1 + REACH];
    let mut taken: Vec<[i32; 4]> = spots.iter().map(point).collect();
    let mut places = Vec::with_capacity(spots.len());
    for &spot in spots {
        let collisions = |place: &Place| {
            let own = place.covers(spot);
            let outside = usize::from(own[0] < 0 || own[2] > width || own[1] < 0 || own[3] > height);
            outside + taken.iter().filter(|other| overlap(own, **other)).count()
        };
        let place = Place::all().min_by_key(collisions).unwrap_or(Place { side: Side::Right, lines: 0 });
        taken.push(place.covers(spot));
        places.push(place);
    }
    places
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
        let beside = |side| Place { side, lines: 0 };
        assert_eq!(places(&[spot(300, 50)], (1000, 400)), [beside(Side::Right)]);
        assert_eq!(places(&[spot(950, 50)], (1000, 400)), [beside(Side::Left)]);
        // The second point stands where the first one's label would; the last six are at one place.
        let crowd =
            [[spot(300, 50), spot(360, 50), spot(330, 52)].as_slice(), &[spot(700, 3); 6], &[spot(500, 398); 3]]
                .concat();
        let chosen = places(&crowd, (1000, 400));
        assert_eq!(chosen[0], beside(Side::Left));
        let boxes: Vec<_> = chosen.iter().zip(&crowd).map(|(place, spot)| place.covers(*spot)).collect();
        for (index, own) in boxes.iter().enumerate() {
            assert!(boxes[..index].iter().all(|other| !overlap(*own, *other)), "{chosen:?} {boxes:?}");
            assert!(own[1] >= 0 && own[3] <= 400, "{chosen:?} {boxes:?}");
        }
    }
}
