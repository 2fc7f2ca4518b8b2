//! `packaging/config.toml`, the configuration file that packages install: every setting, commented out, with its default.

use std::fmt::Write as _;

use defender::model::{
    section_table::SectionKey,
    setting_table::{Setting, Value},
};

/// Columns of a line of the file.
const WIDTH: usize = 100;

const INTRODUCTION: &str = "\
# Configuration of defender, in TOML.
#
# Every line here is a comment, so defaults are in force. To change one, remove the # in front of
# its key, then type:
#   defender config check /etc/defender/config.toml
#   systemctl reload defender
# A bad file changes nothing, and the log says why. `defender get` shows what is in force.
";

const LISTS: &str = "
# Sources whose SYNs are never challenged, and sources whose SYNs are dropped, as addresses or
# prefixes.
#allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]
#deny = [\"198.51.100.0/24\"]

# Long lists have files of their own: one prefix a line, # begins a comment. A relative path begins
# at the directory of this file.
#allow_file = \"/etc/defender/allow.txt\"
#deny_file = \"/etc/defender/deny.txt\"
";

const PORTS: &str = "
# A port may have its own value of: ";

/// The file.
pub(crate) fn page() -> String {
    let settings = Setting::ALL.into_iter().map(entry);
    let mut text = INTRODUCTION.to_owned();
    text.extend(settings);
    text + LISTS + &ports() + &sections()
}

/// A setting: what it means, what it takes, and a line that sets its default.
fn entry(setting: Setting) -> String {
    let mut text = String::from("\n");
    for line in wrap(&format!("{} Takes {}.", setting.description(), setting.allowed())) {
        writeln!(text, "# {line}").expect("a String takes everything");
    }
    writeln!(text, "#{} = {}", setting.name(), example(setting)).expect("a String takes everything");
    text
}

/// The default. Where the host decides, the least value.
fn example(setting: Setting) -> String {
    let default = setting.default().unwrap_or(Value::Number(0));
    let shown = setting.show(default);
    if shown.bytes().all(|byte| byte.is_ascii_digit()) { shown } else { format!("{shown:?}") }
}

fn ports() -> String {
    let names = wrap(&(PORTS.trim_start().to_owned() + &Setting::names(Setting::is_per_port) + "."));
    let names = names.join("\n# ");
    format!("\n{names}\n#[port.443]\n#mode = \"always\"\n")
}

/// The sections, each key with its default as words and with an example.
fn sections() -> String {
    let mut text = String::new();
    let mut last = "";
    for key in SectionKey::ALL {
        if last != key.section() {
            write!(text, "\n#[{}]\n", key.section()).expect("a String takes everything");
        }
        last = key.section();
        let (allowed, default) = (key.allowed(), key.default());
        for line in wrap(&format!("{} Takes {allowed}; default: {default}.", key.description())) {
            writeln!(text, "# {line}").expect("a String takes everything");
        }
        writeln!(text, "#{} = {}", key.name(), section_example(key)).expect("a String takes everything");
    }
    text
}

fn section_example(key: SectionKey) -> &'static str {
    match (key.section(), key.name()) {
        ("interfaces", "names") => r#"["eth0"]"#,
        ("hooks", "on_event") => r#"["/usr/local/bin/notify", "--json"]"#,
        ("hooks", "timeout") => r#""10s""#,
        ("metrics", "listen") => r#""127.0.0.1:9815""#,
        (section, name) => panic!("{section}.{name} needs an example here"),
    }
}

/// Lines of a text, none longer than the file is wide.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one line at least");
        if !line.is_empty() && line.chars().count() + word.chars().count() + 3 > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use defender::{
        model::{config_file::ConfigFile, lists::file::Prefixes, settings::Key},
        problem::Problem,
    };

    use super::*;

    fn parse(text: &str) -> ConfigFile {
        let no_list = |_: &Path| Ok::<_, Problem>(Prefixes::default());
        ConfigFile::parse(Path::new("/etc/defender/config.toml"), text, &no_list).expect("good")
    }

    #[test]
    fn as_installed_it_changes_nothing() {
        assert_eq!(parse(&page()), ConfigFile::default());
    }

    #[test]
    fn uncommented_it_sets_every_default() {
        let keys = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let text: Vec<_> = page().lines().map(keys).collect();
        let file = parse(&text.join("\n"));
        for setting in Setting::ALL {
            let found = file.layer.get(Key::all(setting));
            assert!(found.is_some(), "{} is missing", setting.name());
            assert!(setting.default().is_none_or(|default| found == Some(default)), "{}", setting.name());
        }
        assert_eq!((file.lists.allow.len(), file.lists.deny.len()), (2, 1));
    }

    #[test]
    fn lines_fit() {
        for line in page().lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
