use super::*;

fn line(name: &str, points: &[(f64, f64)]) -> Line {
    Line { name: name.to_owned(), points: points.to_vec(), band: Vec::new() }
}

fn chart(lines: Vec<Line>) -> LineChart {
    LineChart {
        title: "refusals & <more>".to_owned(),
        x: Axis::new("round", Ticks::Whole),
        y: Axis::share("harmful prompts refused"),
        lines,
    }
}

/// The vertical places of the circles, which mark the first series.
fn circles(svg: &str) -> Vec<(i32, i32)> {
    let attribute = |tag: &str, name: &str| -> i32 {
        let start = tag.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
        tag[start..].split('"').next().unwrap().parse().unwrap()
    };
    svg.split('<')
        .filter(|tag| tag.starts_with("circle"))
        .map(|tag| (attribute(tag, "cx"), attribute(tag, "cy")))
        .collect()
}

#[test]
fn points_lie_where_their_values_are() {
    let svg = chart(vec![line("a", &[(0.0, 0.0), (1.0, 0.5), (2.0, 1.0)])]).render().unwrap().inline();
    let [low, middle, high] = circles(&svg)[..] else { panic!("{svg}") };
    assert!(low.0 < middle.0 && middle.0 < high.0 && low.1 > middle.1 && middle.1 > high.1);
    // Equal steps in both directions, to the pixel.
    assert!((2 * middle.0 - low.0 - high.0).abs() <= 1 && (2 * middle.1 - low.1 - high.1).abs() <= 1);
}

#[test]
fn values_that_are_not_finite_are_left_out() {
    let svg = chart(vec![line("a", &[(0.0, f64::NAN), (1.0, 0.5), (2.0, f64::INFINITY)])]).render().unwrap().inline();
    assert_eq!(circles(&svg).len(), 1);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn a_plot_without_values_says_so() {
    let empty = chart(vec![line("a", &[]), line("b", &[(1.0, f64::NAN)])]).render().unwrap().inline();
    assert!(empty.contains("not measured"), "{empty}");
    let scatter = ScatterChart {
        title: "t".into(),
        x: Axis::new("x", Ticks::Number),
        y: Axis::new("y", Ticks::Number),
        points: Vec::new(),
    };
    assert!(scatter.render().unwrap().inline().contains("not measured"));
    let bars = BarChart {
        title: "t".into(),
        value: Axis::new("seconds", Ticks::Number),
        categories: vec!["a".into()],
        series: vec![BarSeries { name: "s".into(), values: vec![None], intervals: Vec::new() }],
        bars: Bars::Grouped,
    };
    assert!(bars.render().unwrap().inline().contains("not measured"));
}

#[test]
fn ink_takes_the_colour_of_the_page_and_markup_in_names_is_escaped() {
    let lines = vec![line("a<b", &[(1.0, 0.2)]), line("c", &[(1.0, 0.4)])];
    let svg = chart(lines).render().unwrap();
    let inline = svg.inline();
    assert!(inline.starts_with("<svg role=\"img\" aria-label=\"refusals &amp; &lt;more>\""), "{inline}");
    assert!(inline.trim_end().ends_with("</svg>"));
    assert!(inline.contains("fill=\"currentColor\"") && !inline.contains("#010203"));
    assert!(inline.contains("a&lt;b") && !inline.contains("a<b"));
    assert!(!inline.contains("<style"), "a style inside a page would reach beyond its plot");
    assert!(svg.standalone().contains("prefers-color-scheme:dark"));
    assert!(!inline.contains("href") && !inline.contains("url("), "nothing is loaded from outside");
}

#[test]
fn a_band_goes_there_and_back() {
    let mut with_band = line("a", &[(0.0, 0.5), (1.0, 0.5)]);
    with_band.band = vec![BandPoint { x: 0.0, low: 0.25, high: 0.75 }, BandPoint { x: 1.0, low: 0.25, high: 0.75 }];
    let svg = chart(vec![with_band]).render().unwrap().inline();
    let polygon = svg.split('<').find(|tag| tag.starts_with("polygon")).unwrap();
    let points = polygon.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
    let ys: Vec<i32> = points.split_whitespace().map(|pair| pair.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!((ys.len(), ys[0] == ys[1], ys[2] == ys[3]), (4, true, true), "{points}");
    assert!(ys[2] > ys[0]);
}

/// Left end and width of the bars, in order.
fn rectangles(svg: &str) -> Vec<(i32, i32)> {
    let number = |tag: &str, name: &str| -> i32 {
        let start = tag.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
        tag[start..].split('"').next().unwrap().parse().unwrap()
    };
    svg.split('<').filter(|tag| tag.starts_with("rect")).map(|tag| (number(tag, "x"), number(tag, "width"))).collect()
}

#[test]
fn stacked_bars_stand_end_to_end_and_are_as_long_as_their_values() {
    let bars = BarChart {
        title: "time".into(),
        value: Axis::new("seconds", Ticks::Number),
        categories: vec!["a".into()],
        series: vec![
            BarSeries { name: "train".into(), values: vec![Some(30.0)], intervals: Vec::new() },
            BarSeries { name: "align".into(), values: vec![Some(10.0)], intervals: Vec::new() },
        ],
        bars: Bars::Stacked,
    };
    let svg = bars.render().unwrap().inline();
    // Two swatches of the legend come first.
    let [_, _, train, align] = rectangles(&svg)[..] else { panic!("{svg}") };
    assert!((train.0 + train.1 - align.0).abs() <= 1, "{train:?} {align:?}");
    assert!((train.1 - 3 * align.1).abs() <= 3, "{train:?} {align:?}");
    assert!(svg.contains(">\n40\n<"), "the sum is written: {svg}");
}

#[test]
fn numbers_are_short() {
    for (value, expected) in [
        (0.0, "0"),
        (1.0, "1"),
        (0.5, "0.5"),
        (2.488, "2.49"),
        (17.75, "17.8"),
        (0.00125, "0.00125"),
        (1234.0, "1234"),
        (11_247.0, "11,247"),
        (-1_234_567.0, "-1,234,567"),
        (3e-7, "3.0e-7"),
    ] {
        assert_eq!(number(value).to_string(), expected);
    }
}
