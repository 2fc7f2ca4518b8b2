//! What `tmux capture-pane -e -p` prints, as cells with styles.

/// How a cell looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// One of the sixteen colours; none: the terminal's own.
    pub(super) colour: Option<u8>,
    pub(super) bold: bool,
    pub(super) reversed: bool,
}

/// A letter and its style.
pub(super) type Cell = (char, Style);

/// Lines of cells. Other escape sequences than those of styles do not come.
pub(super) fn parse(text: &str) -> Vec<Vec<Cell>> {
    let mut style = Style::default();
    text.lines().map(|line| parse_line(line, &mut style)).collect()
}

/// A style goes on in the next line.
fn parse_line(mut line: &str, style: &mut Style) -> Vec<Cell> {
    let mut cells = Vec::new();
    while let Some(letter) = line.chars().next() {
        if let Some((sequence, rest)) = line.strip_prefix("\x1b[").and_then(|rest| rest.split_once('m')) {
            style.change(sequence);
            line = rest;
        } else {
            cells.push((letter, *style));
            line = &line[letter.len_utf8()..];
        }
    }
    cells
}

impl Style {
    fn change(&mut self, sequence: &str) {
        let mut numbers = sequence.split(';').map(|number| number.parse().unwrap_or(0_u8));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                22 => self.bold = false,
                7 => self.reversed = true,
                27 => self.reversed = false,
                30..=37 => self.colour = Some(number - 30),
                90..=97 => self.colour = Some(number - 82),
                39 => self.colour = None,
                38 => self.colour = numbers.nth(1).filter(|colour| *colour < 16),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_go_on_until_they_are_changed() {
        let bold = Style { bold: true, ..Style::default() };
        let green = Style { colour: Some(2), bold: true, reversed: false };
        let lines = parse("a\x1b[1mb\nc\x1b[38;5;2md\x1b[0m\x1b[7;31me\x1b[m");
        let reversed = Style { colour: Some(1), bold: false, reversed: true };
        assert_eq!(
            lines,
            [vec![('a', Style::default()), ('b', bold)], vec![('c', bold), ('d', green), ('e', reversed)],]
        );
        assert_eq!(parse("\x1b[92;1mx\x1b[22;39my")[0][1], ('y', Style::default()));
    }
}
