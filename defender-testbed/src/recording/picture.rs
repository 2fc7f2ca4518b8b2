//! Frames of a terminal as one SVG that moves by itself: no script, as GitHub shows it.
//!
//! A line that stays the same for some frames is drawn once, and is visible for as long.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

use super::ansi::{Cell, Style};
use crate::svg::escaped;

/// Size of a cell.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
/// Room around the cells.
const MARGIN: f64 = 14.0;
/// The line that letters stand on, in a cell.
const BASE: f64 = 13.5;

const BACKGROUND: &str = "#0d1117";
const FOREGROUND: &str = "#c9d1d9";
/// The colours that programs may use, dark ones first.
const COLOURS: [&str; 16] = [
    "#484f58", "#f85149", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681",
    "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc",
];

/// What a terminal showed at one time.
pub(super) type Frame = Vec<Vec<Cell>>;

/// Draws the frames, each for so many seconds. Where nothing moves, the frame `still` is seen.
pub(super) fn draw(title: &str, frames: &[Frame], seconds: f64, still: usize) -> String {
    let columns = frames.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let rows = frames.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns as f64 * WIDTH + 2.0 * MARGIN, rows as f64 * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"14\" fill=\"{FOREGROUND}\">\n\
         <title>{}</title>\n\
         <rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n",
        escaped(title)
    );
    for (shown, lines) in groups(frames, rows) {
        let (open, close) = group(&Range { start: shown.0, end: shown.1 }, frames.len(), seconds, still);
        let _ = writeln!(svg, "{open}{lines}{close}");
    }
    svg + "</svg>\n"
}

/// What is seen during the same frames, drawn.
fn groups(frames: &[Frame], rows: usize) -> BTreeMap<(usize, usize), String> {
    let mut groups: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for row in 0..rows {
        let line = |frame: usize| frames[frame].get(row).map_or(&[][..], Vec::as_slice);
        let mut begin = 0;
        for end in 1..=frames.len() {
            if end < frames.len() && line(end) == line(begin) {
                continue;
            }
            groups.entry((begin, end)).or_default().push_str(&draw_line(line(begin), row));
            begin = end;
        }
    }
    groups.retain(|_, lines| !lines.is_empty());
    groups
}

/// What makes a group visible during its frames, over and over.
fn group(shown: &Range<usize>, frames: usize, seconds: f64, still: usize) -> (String, &'static str) {
    if *shown == (0..frames) {
        return ("<g>".to_owned(), "</g>");
    }
    let at = |frame: usize| frame as f64 / frames as f64;
    let (values, times) = match (shown.start, shown.end) {
        (0, end) => ("visible;hidden", format!("0;{:.4}", at(end))),
        (start, end) if end == frames => ("hidden;visible", format!("0;{:.4}", at(start))),
        (start, end) => ("hidden;visible;hidden", format!("0;{:.4};{:.4}", at(start), at(end))),
    };
    let usual = if shown.contains(&still) { "visible" } else { "hidden" };
    let open = format!(
        "<g visibility=\"{usual}\"><animate attributeName=\"visibility\" values=\"{values}\" keyTimes=\"{times}\" \
         dur=\"{:.1}s\" calcMode=\"discrete\" repeatCount=\"indefinite\"/>",
        frames as f64 * seconds
    );
    (open, "</g>")
}

fn draw_line(line: &[Cell], row: usize) -> String {
    let mut svg = String::new();
    let mut column = 0;
    for run in line.chunk_by(|a, b| a.1 == b.1 && is_block(a.0) == is_block(b.0)) {
        draw_run(&mut svg, run, column, row);
        column += run.len();
    }
    svg
}

fn draw_run(svg: &mut String, run: &[Cell], column: usize, row: usize) {
    let style = run[0].1;
    let (x, y) = (MARGIN + column as f64 * WIDTH, MARGIN + row as f64 * HEIGHT);
    let (ink, paper) = colours(style);
    if let Some(paper) = paper {
        let width = run.len() as f64 * WIDTH;
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{paper}\"/>"
        );
    }
    if is_block(run[0].0) {
        draw_blocks(svg, run, x, y, ink.unwrap_or(FOREGROUND));
        return;
    }
    let text: String = run.iter().map(|(letter, _)| letter).collect();
    let fill = ink.map_or(String::new(), |ink| format!(" fill=\"{ink}\""));
    let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
    for (column, words) in columns(&text) {
        let (x, length) = (x + column as f64 * WIDTH, words.chars().count() as f64 * WIDTH);
        let _ = write!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{length:.1}\"{fill}{weight}>{}</text>",
            y + BASE,
            escaped(words)
        );
    }
}

/// What stands between two spaces or more, and where each begins: no font is as wide as a cell to the last bit.
fn columns(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    for words in text.split("  ") {
        let indent = words.len() - words.trim_start().len();
        if !words.trim().is_empty() {
            found.push((at + indent, words.trim()));
        }
        at += words.chars().count() + 2;
    }
    found
}

/// Fonts differ in how they draw blocks: these are drawn as what they are. Equal ones side by side are one.
fn draw_blocks(svg: &mut String, run: &[Cell], x: f64, y: f64, ink: &str) {
    let mut column = 0;
    for same in run.chunk_by(|a, b| a.0 == b.0) {
        let (share, opacity) = match same[0].0 {
            '░' => (1.0, " fill-opacity=\".2\""),
            letter => (f64::from(letter as u32 - '▁' as u32 + 1) / 8.0, ""),
        };
        let high = share * (HEIGHT - 3.0);
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"{ink}\"{opacity}/>",
            x + column as f64 * WIDTH,
            y + HEIGHT - 1.0 - high,
            same.len() as f64 * WIDTH
        );
        column += same.len();
    }
}

fn is_block(letter: char) -> bool {
    matches!(letter, '▁'..='█' | '░')
}

/// Of letters, and behind them; none: the usual.
fn colours(style: Style) -> (Option<&'static str>, Option<&'static str>) {
    let colour = style.colour.map(|colour| COLOURS[usize::from(colour) % COLOURS.len()]);
    if style.reversed { (Some(BACKGROUND), Some(colour.unwrap_or(FOREGROUND))) } else { (colour, None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::ansi::parse;

    #[test]
    fn a_line_that_stays_is_drawn_once() {
        let frames = ["same\none", "same\ntwo", "same\ntwo", "same\n"].map(parse);
        let svg = draw("a <title>", &frames, 1.0, 1);
        for (word, times) in [("same", 1), ("one", 1), ("two", 1), ("&lt;title&gt;", 1)] {
            assert_eq!(svg.matches(word).count(), times, "{word}: {svg}");
        }
        assert!(svg.contains("values=\"visible;hidden\" keyTimes=\"0;0.2500\""), "{svg}");
        assert!(svg.contains("visibility=\"visible\"><animate attributeName=\"visibility\" values=\"hidden;visible;hidden\" keyTimes=\"0;0.2500;0.7500\""), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn columns_begin_where_they_are() {
        assert_eq!(columns("  a b   é  c "), [(2, "a b"), (8, "é"), (11, "c")]);
        assert_eq!(columns("   "), []);
    }

    #[test]
    fn blocks_are_rectangles_and_reversed_cells_have_paper() {
        let svg = draw("x", &[parse("\x1b[7m> \x1b[36m▁██░\x1b[0m")], 1.0, 0);
        assert_eq!(svg.matches("<rect").count(), 2 + 1 + 3, "{svg}");
        assert!(svg.contains("height=\"1.9\"") && svg.contains("fill-opacity"), "{svg}");
        assert!(svg.contains(&format!("fill=\"{BACKGROUND}\">&gt;</text>")), "{svg}");
    }
}
