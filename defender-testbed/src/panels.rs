//! Panels of a dashboard, as SVG: lines over time, side by side.

use crate::svg::{COLOURS, Picture, Scale, number};

const COLUMNS: usize = 2;
const WIDTH: f64 = 470.0;
const HEIGHT: f64 = 230.0;
const TOP: f64 = 44.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
/// Within a panel: its title is above, times and legend are below.
const PLOT_TOP: f64 = 28.0;
const PLOT_BOTTOM: f64 = 168.0;
const LEGEND: f64 = 202.0;
const LEGEND_LINE: f64 = 15.0;
/// What a letter of a legend takes.
const LETTER: f64 = 6.4;

/// A panel.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Each with its name, and its values by the second.
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

/// The picture of panels over the same time, and of a span of it that is marked.
pub(crate) fn draw(title: &str, panels: &[Panel], seconds: f64, marked: (f64, f64)) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let mut out = Picture::new(title, TOP + rows as f64 * HEIGHT);
    for (index, panel) in panels.iter().enumerate() {
        let left = (index % COLUMNS) as f64 * (WIDTH + 10.0);
        let top = TOP + (index / COLUMNS) as f64 * HEIGHT;
        out.push(format!("<g transform=\"translate({left:.0} {top:.0})\">"));
        panel.draw(&mut out, seconds, marked);
        out.push("</g>");
    }
    out.finish()
}

impl Panel {
    fn draw(&self, out: &mut Picture, seconds: f64, marked: (f64, f64)) {
        let most =
            self.series.iter().flat_map(|(_, points)| points).fold(0.0, |most, point| point.1.max(most));
        let y = Scale::linear(most, PLOT_BOTTOM, PLOT_TOP);
        let x = Scale { most: seconds, from: LEFT, to: WIDTH - RIGHT };
        let (from, to) = (x.place(marked.0), x.place(marked.1));
        out.push(format!(
            "<rect x=\"{from:.1}\" y=\"{PLOT_TOP}\" width=\"{:.1}\" height=\"{}\" fill=\"#fff5f5\"/>",
            to - from,
            PLOT_BOTTOM - PLOT_TOP
        ));
        out.text((LEFT, 16.0), "start", &self.title);
        for tick in y.ticks() {
            out.line((LEFT, y.place(tick)), (WIDTH - RIGHT, y.place(tick)), "#e2e8f0");
            out.text((LEFT - 6.0, y.place(tick) + 4.0), "end", &number(tick));
        }
        for tick in x.ticks() {
            out.text((x.place(tick), PLOT_BOTTOM + 16.0), "middle", &format!("{tick:.0} s"));
        }
        for (index, (_, points)) in self.series.iter().enumerate() {
            let places: Vec<_> = points.iter().map(|(at, value)| (x.place(*at), y.place(*value))).collect();
            out.polyline(&places, COLOURS[index % COLOURS.len()]);
        }
        self.legend(out);
    }

    /// On two lines at most.
    fn legend(&self, out: &mut Picture) {
        let (mut x, mut line) = (LEFT, 0.0);
        for (index, (name, _)) in self.series.iter().enumerate() {
            let width = 24.0 + LETTER * name.chars().count() as f64;
            if x + width > WIDTH && x > LEFT {
                (x, line) = (LEFT, line + 1.0);
            }
            if line > 1.0 {
                break;
            }
            let y = LEGEND + LEGEND_LINE * line;
            let colour = COLOURS[index % COLOURS.len()];
            out.push(format!(
                "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"3\" fill=\"{colour}\"/>",
                y - 5.0
            ));
            out.text((x + 14.0, y), "start", name);
            x += width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_is_in_the_picture() {
        let panel = |title: &str| Panel {
            title: title.to_owned(),
            series: vec![("a <b>".to_owned(), vec![(0.0, 1.0), (1.0, 3.0)])],
        };
        let picture = draw("all", &[panel("one"), panel("two"), panel("three")], 2.0, (0.5, 1.0));
        for words in ["one", "two", "three", "a &lt;b&gt;"] {
            assert!(picture.contains(words), "{picture}");
        }
        assert_eq!(picture.matches("<g ").count(), picture.matches("</g>").count());
        assert_eq!(picture.matches("<polyline").count(), 3);
    }
}
