//! Files of prefixes: one a line, `#` comments. Pure.

use std::path::Path;

use crate::{control::lists::entry::parse_prefix, problem::Problem, report::cidr::Cidr};

/// Reads all of it, or says which line is wrong, and where.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Cidr>, Problem> {
    let mut prefixes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let prefix = line.split_once('#').map_or(line, |(before, _)| before);
        if prefix.trim().is_empty() {
            continue;
        }
        let cidr = parse_prefix(prefix.trim()).map_err(|error| {
            let column = prefix.chars().take_while(|c| c.is_whitespace()).count() + 1;
            Problem::Configuration(format!("{}:{}:{column}: {error}", path.display(), index + 1))
        })?;
        prefixes.push(cidr);
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_left_out() {
        let text = "# ours\n192.0.2.0/24\n\n  2001:db8::7  # a host\r\n";
        let prefixes = parse(Path::new("x"), text).expect("prefixes");
        assert_eq!(prefixes.iter().map(Cidr::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "2001:db8::7"]);
        assert_eq!(parse(Path::new("x"), "#\n").expect("nothing"), []);
    }

    #[test]
    fn errors_name_file_and_line() {
        for text in ["192.0.2.0/24\n#\n192.0.2.7/24\n", "\n\n192.0.2.0/24 192.0.3.0/24\n"] {
            let error = parse(Path::new("/etc/x"), text).expect_err(text).to_string();
            assert!(error.starts_with("/etc/x:3:1: `192.0.2."), "{error}");
        }
    }
}
