//! Files of prefixes: one a line, what is behind `#` is its comment. Messages do not show what is in them: whoever may have a file
//! read need not be allowed to see it.

use std::path::Path;

use defender_common::abi::MOST_PREFIXES;

use crate::{
    model::{
        lists::{
            entry::parse_prefix,
            note::{Comment, Note, Notes},
        },
        prefix::Cidr,
    },
    problem::Problem,
};

/// A file may have so many bytes: twice what the longest prefixes that there is room for take.
pub const MOST_BYTES: u64 = MOST_PREFIXES as u64 * 96;
/// And so many lines.
const MOST_LINES: usize = MOST_PREFIXES as usize * 2;

/// Prefixes, and what is noted about some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// The prefixes.
    pub prefixes: Vec<Cidr>,
    /// Of those that have one.
    pub notes: Notes,
}

/// What a configuration file has on the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLists {
    /// Sources that are never challenged.
    pub allow: Vec<Cidr>,
    /// Sources that are always dropped.
    pub deny: Vec<Cidr>,
    /// What is noted about them.
    pub notes: Notes,
}

/// Reads all of the text of the file at `path`, which may be a name for what is no file; or says which line is wrong, and where.
pub fn parse(path: &Path, text: &str) -> Result<Prefixes, Problem> {
    let (mut prefixes, mut notes) = (Vec::new(), Notes::default());
    for (index, line) in text.lines().enumerate() {
        if index == MOST_LINES {
            let path = path.display();
            return Err(Problem::Configuration(format!("{path} has more than {MOST_LINES} lines")));
        }
        let (prefix, comment) = line.split_once('#').unwrap_or((line, ""));
        if prefix.trim().is_empty() {
            continue;
        }
        let cidr = parse_prefix(prefix.trim()).map_err(|_| {
            let column = prefix.chars().take_while(|c| c.is_whitespace()).count() + 1;
            Problem::Configuration(format!(
                "{}:{}:{column}: not a valid prefix; expected one a line, such as 192.0.2.7, 192.0.2.0/24 or \
                 2001:db8::/32, without bits beyond its length and not covering IPv4 within IPv6",
                path.display(),
                index + 1
            ))
        })?;
        prefixes.push(cidr);
        if let Some(comment) = Comment::of_line(comment) {
            notes.insert(cidr, Note { comment: Some(comment), expires: None });
        }
    }
    Ok(Prefixes { prefixes, notes })
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Instant};

    use super::*;

    #[test]
    fn comments_belong_to_the_prefix_of_their_line() {
        let text = "# ours\n192.0.2.0/24\n\n  2001:db8::7  # a host # of ours\r\n10.0.0.1 #\n";
        let Prefixes { prefixes, notes } = parse(Path::new("x"), text).expect("prefixes");
        assert_eq!(
            prefixes.iter().map(Cidr::to_string).collect::<Vec<_>>(),
            ["192.0.2.0/24", "2001:db8::7", "10.0.0.1"]
        );
        let comment = |prefix| Some(notes.get(prefix)?.comment.as_ref()?.as_str());
        let comments: Vec<_> = prefixes.iter().map(comment).collect();
        assert_eq!(comments, [None, Some("a host # of ours"), None]);
        assert_eq!(parse(Path::new("x"), "#\n").expect("nothing"), Prefixes::default());
    }

    #[test]
    fn errors_name_file_and_line_and_not_what_is_there() {
        for text in ["192.0.2.0/24\n#\n192.0.2.7/25\n", "\n\n192.0.2.0/24 192.0.3.0/25\n", "\n#\nroot:x/25\n"]
        {
            let error = parse(Path::new("/etc/x"), text).expect_err(text).to_string();
            assert!(error.starts_with("/etc/x:3:1: not a valid prefix"), "{error}");
            assert!(!error.contains("/25") && !error.contains("root"), "{error}");
        }
    }

    #[test]
    fn there_may_not_be_too_many_lines() {
        let lines = "\n".repeat(MOST_LINES);
        assert_eq!(parse(Path::new("x"), &lines).expect("nothing"), Prefixes::default());
        assert!(parse(Path::new("x"), &format!("{lines}\n")).is_err());
    }

    #[test]
    fn a_million_lines_take_about_a_second() {
        let text: String = (0..1_000_000_u32)
            .map(|number| format!("{}/32\n", IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes())))
            .collect();
        let began = Instant::now();
        let read = parse(Path::new("list"), &text).expect("a list");
        assert_eq!((read.prefixes.len(), read.notes.is_empty()), (1_000_000, true));
        // Unoptimised, on a slow and busy machine; looking at each line's predecessors would take hours.
        assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
    }
}
