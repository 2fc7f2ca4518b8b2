//! Plots, as SVG: bars and lines with axes and labels.

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 240.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 60.0;
const BAR: f64 = 16.0;
const GAP: f64 = 12.0;
const LINES_HEIGHT: f64 = 420.0;
const LINES_LEFT: f64 = 90.0;
pub(crate) const COLOURS: [&str; 8] =
    ["#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#718096", "#b7791f", "#2c7a7b", "#9b2c2c"];

/// A number with what it varied between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) at: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// Bars: groups below one another, in each a bar for each series. Nothing where a group has no value of a series.
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    /// What the numbers are.
    pub(crate) axis: &'a str,
    pub(crate) series: Vec<String>,
    pub(crate) groups: Vec<(String, Vec<Option<Value>>)>,
}

/// Lines over a logarithmic axis. The y axis begins at 0.
pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_axis: &'a str,
    pub(crate) y_axis: &'a str,
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Bars<'_> {
    /// The picture.
    pub(crate) fn draw(&self) -> String {
        let group_height = BAR * self.series.len() as f64 + GAP;
        let height = TOP + group_height * self.groups.len() as f64 + BOTTOM;
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().flatten());
        let scale = Scale::linear(values.fold(0.0, |most, value| value.most.max(most)), LEFT, WIDTH - RIGHT);
        let mut out = Picture::new(self.title, height);
        out.legend(&self.series);
        for tick in scale.ticks() {
            let x = scale.place(tick);
            out.line((x, TOP), (x, height - BOTTOM), "#e2e8f0");
            out.text((x, height - BOTTOM + 18.0), "middle", &number(tick));
        }
        out.text(((LEFT + WIDTH - RIGHT) / 2.0, height - 16.0), "middle", self.axis);
        for (index, (label, values)) in self.groups.iter().enumerate() {
            let top = TOP + group_height * index as f64 + GAP / 2.0;
            let middle = top + (group_height - GAP) / 2.0 + 4.0;
            out.text((LEFT - 8.0, middle), "end", label);
            for (series, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    out.bar(&scale, top + BAR * series as f64, *value, COLOURS[series % COLOURS.len()]);
                }
            }
        }
        out.line((LEFT, TOP), (LEFT, height - BOTTOM), "#4a5568");
        out.finish()
    }
}

impl Lines<'_> {
    /// The picture.
    pub(crate) fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let (bottom, height) = (LINES_HEIGHT - BOTTOM, LINES_HEIGHT);
        let y = Scale::linear(points().fold(0.0, |most, point| point.1.max(most)), bottom, TOP);
        let most = points().fold(10.0, |most: f64, point| point.0.max(most));
        let x = Scale { most: most.log10(), from: LINES_LEFT, to: WIDTH - RIGHT };
        let mut out = Picture::new(self.title, height);
        let names: Vec<_> = self.series.iter().map(|(name, _)| name.clone()).collect();
        out.legend(&names);
        for tick in y.ticks() {
            out.line((LINES_LEFT, y.place(tick)), (WIDTH - RIGHT, y.place(tick)), "#e2e8f0");
            out.text((LINES_LEFT - 8.0, y.place(tick) + 4.0), "end", &number(tick));
        }
        for power in 0..=most.log10().floor() as i32 {
            let at = x.place(f64::from(power));
            out.line((at, TOP), (at, bottom), "#edf2f7");
            out.text((at, bottom + 18.0), "middle", &number(10_f64.powi(power)));
        }
        out.text(((LINES_LEFT + WIDTH - RIGHT) / 2.0, height - 16.0), "middle", self.x_axis);
        out.text((12.0, TOP - 10.0), "start", self.y_axis);
        for (index, (_, points)) in self.series.iter().enumerate() {
            let places: Vec<_> =
                points.iter().map(|(at, value)| (x.place(at.max(1.0).log10()), y.place(*value))).collect();
            out.curve(&places, COLOURS[index % COLOURS.len()]);
        }
        out.finish()
    }
}

/// From a number to a place.
pub(crate) struct Scale {
    pub(crate) most: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Scale {
    pub(crate) fn linear(most: f64, from: f64, to: f64) -> Self {
        Self { most: if most > 0.0 { most * 1.05 } else { 1.0 }, from, to }
    }

    pub(crate) fn place(&self, value: f64) -> f64 {
        self.from + value.clamp(0.0, self.most) / self.most * (self.to - self.from)
    }

    /// Five to ten round numbers.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let power = 10_f64.powf((self.most / 5.0).log10().floor());
        let step =
            [5.0, 2.0, 1.0].into_iter().map(|round| round * power).find(|step| self.most / step >= 5.0);
        let step = step.unwrap_or(power);
        (0..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= self.most).collect()
    }
}

/// A picture that is being drawn.
pub(crate) struct Picture(String);

impl Picture {
    pub(crate) fn new(title: &str, height: f64) -> Self {
        let mut out = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#2d3748\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
        ));
        out.push(format!("<text x=\"12\" y=\"24\" font-size=\"16\">{}</text>", escaped(title)));
        out
    }

    fn legend(&mut self, names: &[String]) {
        let mut x = 12.0;
        for (index, name) in names.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            self.push(format!("<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"));
            self.text((x + 17.0, 46.0), "start", name);
            x += 34.0 + 6.6 * name.chars().count() as f64;
        }
    }

    fn bar(&mut self, scale: &Scale, top: f64, value: Value, colour: &str) {
        let (left, right) = (scale.place(0.0), scale.place(value.at));
        let (width, height, middle) = (right - left, BAR - 3.0, top + (BAR - 3.0) / 2.0);
        self.push(format!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
        ));
        if value.most > value.least {
            self.line((scale.place(value.least), middle), (scale.place(value.most), middle), "#1a202c");
        }
        let beside = scale.place(value.most.max(value.at)) + 4.0;
        self.text((beside, middle + 4.0), "start", &number(value.at));
    }

    pub(crate) fn polyline(&mut self, places: &[(f64, f64)], colour: &str) {
        let points: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
    }

    fn curve(&mut self, places: &[(f64, f64)], colour: &str) {
        self.polyline(places, colour);
        for (x, y) in places {
            self.push(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
        }
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        self.push(format!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    pub(crate) fn text(&mut self, at: (f64, f64), anchor: &str, text: &str) {
        let text = escaped(text);
        self.push(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>",
            at.0, at.1
        ));
    }

    pub(crate) fn push(&mut self, element: impl AsRef<str>) {
        let _ = writeln!(self.0, "{}", element.as_ref());
    }

    pub(crate) fn finish(mut self) -> String {
        self.push("</svg>");
        self.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Short: 1.5M, 20k, 7.
pub(crate) fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 999_500.0 => (value / 1e6, "M"),
        v if v >= 10_000.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if value.fract().abs() < 0.05 || value.abs() >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (6.4, "6.4"), (250.0, "250"), (20_000.0, "20k"), (1.5e6, "1.5M")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for most in [0.3, 7.0, 99.0, 240.0, 5e6] {
            let ticks = Scale::linear(most, 0.0, 1.0).ticks();
            assert!((5..=13).contains(&ticks.len()), "{most}: {ticks:?}");
        }
    }

    #[test]
    fn every_element_is_closed_and_text_is_escaped() {
        let value = Value { at: 2.0, least: 1.0, most: 3.0 };
        let bars = Bars {
            title: "a < b",
            axis: "ns",
            series: vec!["one".into()],
            groups: vec![("x & y".into(), vec![Some(value)])],
        };
        let picture = bars.draw();
        assert!(picture.contains("a &lt; b") && picture.contains("x &amp; y"));
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    }
}
