//! Files of prefixes: one a line, `#` comments. Messages do not show what is in them: whoever may have a file
//! read need not be allowed to see it.

use std::path::Path;

use defender_common::abi::MOST_PREFIXES;

use crate::{
    model::{lists::entry::parse_prefix, prefix::Cidr},
    problem::Problem,
};

/// A file may have so many bytes: twice what the longest prefixes that there is room for take.
pub const MOST_BYTES: u64 = MOST_PREFIXES as u64 * 96;
/// And so many lines.
const MOST_LINES: usize = MOST_PREFIXES as usize * 2;

/// Reads all of the text of the file at `path`, or says which line is wrong, and where.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Cidr>, Problem> {
    let mut prefixes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if index == MOST_LINES {
            let path = path.display();
            return Err(Problem::Configuration(format!("{path} has more than {MOST_LINES} lines")));
        }
        let prefix = line.split_once('#').map_or(line, |(before, _)| before);
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
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Instant};

    use super::*;

    #[test]
    fn comments_and_empty_lines_are_left_out() {
        let text = "# ours\n192.0.2.0/24\n\n  2001:db8::7  # a host\r\n";
        let prefixes = parse(Path::new("x"), text).expect("prefixes");
        assert_eq!(prefixes.iter().map(Cidr::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::7"]);
        assert_eq!(parse(Path::new("x"), "#\n").expect("nothing"), []);
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
        assert_eq!(parse(Path::new("x"), &lines).expect("nothing"), []);
        assert!(parse(Path::new("x"), &format!("{lines}\n")).is_err());
    }

    #[test]
    fn a_million_lines_take_about_a_second() {
        let text: String = (0..1_000_000_u32)
            .map(|number| format!("{}/32\n", IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes())))
            .collect();
        let began = Instant::now();
        assert_eq!(parse(Path::new("list"), &text).expect("a list").len(), 1_000_000);
        // Unoptimised, on a slow and busy machine; looking at each line's predecessors would take hours.
        assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
    }
}
