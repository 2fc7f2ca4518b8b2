//! Reads version numbers out of what compilers and linkers print.

/// The first version number after `label` in `text`, as (major, minor).
pub(crate) fn after(label: &str, text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once(label)?;
    parse(rest.trim_start())
}

/// The version number that `text` starts with, as (major, minor).
pub(crate) fn parse(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_number_after_its_label() {
        let rustc =
            "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(after("release:", rustc), Some((1, 97)));
        assert_eq!(after("LLVM version:", rustc), Some((22, 1)));
        assert_eq!(after("LLVM version", "Debian LLVM version 22.1.8\n"), Some((22, 1)));
    }

    #[test]
    fn finds_nothing_where_there_is_no_number() {
        assert_eq!(after("LLVM version", "bpf-linker 0.13.0"), None);
        assert_eq!(after("LLVM version", "LLVM version unknown"), None);
        assert_eq!(parse(""), None);
    }
}
