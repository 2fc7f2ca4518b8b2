//! Which services `top` shows: those whose line contains the words typed.

use crate::report::{snapshot::ServiceStatus, top::view::action};

/// Longer words find nothing.
const LONGEST: usize = 60;

/// The words typed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The words, in lower case.
    pub text: String,
    /// Keys go to it.
    pub editing: bool,
}

impl Filter {
    /// Whether a service is shown: each word is in its endpoint, mode, level or reason.
    pub fn wants(&self, service: &ServiceStatus) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let line = format!("{} {} {}", service.endpoint, service.mode, action::long(service)).to_lowercase();
        self.text.split_whitespace().all(|word| line.contains(word))
    }

    /// Another letter.
    pub fn push(&mut self, letter: char) {
        if self.text.len() < LONGEST && !letter.is_control() {
            self.text.extend(letter.to_lowercase());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::snapshot::tests::example;

    #[test]
    fn every_word_must_be_in_the_line() {
        let service = &example().services[1];
        for (text, wanted) in
            [("", true), ("443", true), ("192.0 monitor", true), (" UNPROT", true), ("443 always", false)]
        {
            let mut filter = Filter::default();
            text.chars().for_each(|letter| filter.push(letter));
            assert_eq!(filter.wants(service), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_letter_or_too_much_is_left_out() {
        let mut filter = Filter::default();
        filter.push('\u{1b}');
        assert_eq!(filter.text, "");
        (0..1000).for_each(|_| filter.push('é'));
        assert!(filter.text.len() <= LONGEST + 2);
    }
}
