//! How things look: colours and letters that a terminal may lack. What a colour says is also said in words.

use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours; off with `NO_COLOR`.
    pub colour: bool,
    /// Letters beyond ASCII.
    pub unicode: bool,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As usual.
    Good,
    /// The defence acts.
    Acting,
    /// Something needs a look.
    Bad,
}

impl Look {
    /// By the environment: `variable` gives the value of one that is set and not empty.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(&variable).unwrap_or_default();
        let utf8 = locale.to_lowercase().replace('-', "").contains("utf8");
        // The font of the Linux console lacks most of them.
        let console = variable("TERM").is_some_and(|terminal| terminal == "linux");
        Self { colour: variable("NO_COLOR").is_none(), unicode: utf8 && !console }
    }

    /// A state.
    pub fn health(self, health: Health) -> Style {
        self.colour(match health {
            Health::Good => Color::Green,
            Health::Acting => Color::Yellow,
            Health::Bad => Color::Red,
        })
    }

    /// Numbers that are drawn.
    pub fn drawn(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// The heads of tables.
    pub const fn head() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The line that is selected.
    pub const fn selected() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// `…`, or what stands for it.
    pub const fn ellipsis(self) -> char {
        if self.unicode { '…' } else { '~' }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(set: &[(&str, &str)]) -> Look {
        Look::of(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(look(&[("LANG", "C.UTF-8")]), Look { colour: true, unicode: true });
        assert_eq!(look(&[("LANG", "C.UTF-8"), ("LC_ALL", "C")]), Look { colour: true, unicode: false });
        assert_eq!(
            look(&[("LC_CTYPE", "de_DE.utf8"), ("NO_COLOR", "1")]),
            Look { colour: false, unicode: true }
        );
        assert_eq!(look(&[("LANG", "C.UTF-8"), ("TERM", "linux")]), Look { colour: true, unicode: false });
        assert_eq!(look(&[]), Look { colour: true, unicode: false });
    }

    #[test]
    fn without_colour_a_style_is_none() {
        let plain = Look { colour: false, unicode: true };
        for health in [Health::Good, Health::Acting, Health::Bad] {
            assert_eq!(plain.health(health), Style::new());
        }
        assert_eq!(plain.drawn(), Style::new());
    }
}
