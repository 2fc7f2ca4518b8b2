//! `settings.md`, from the table of settings.

use clap::ValueEnum as _;
use defender::model::{mode::Mode, section_table::SectionKey, setting_table::Setting};

use crate::markdown::{code, head, sentence, table};

const INTRODUCTION: &str = "\
`defender set KEY VALUE` changes a setting at once, `defender set KEY default` removes what was set. `defender get` shows what
was set, `defender get KEY` the value in force. A [configuration file](../how-to/first-server.md#keep-settings-in-a-file) takes the
same keys and values.

A key may be for one port where the table says so: `443.mode`, `443.start`. The first of these that exists is in force:

1. what was set for the port;
2. what the configuration file says for the port;
3. what was set for all ports;
4. what the configuration file says for all ports;
5. the default.

`--mode` and `--port` of `run` and `attach` replace what was set before. Without `--config`,
`/etc/defender/config.toml` is in force if it exists.";

const SECTIONS: &str = "
What concerns the program rather than services stands in the file only, in sections. Interfaces are read at the start
([how](../how-to/run-as-a-service.md#choose-the-interfaces)), [hooks](../how-to/hooks.md) on SIGHUP as well.
";

const AFTER: &str = "
`end` must be below `start`, and `start` not above `critical`. Whatever they say, `critical` leaves as many places in the backlog
as there are CPUs (in a backlog that is long enough), and `critical` is at least one connection. `start` is at least four, unless `critical` is less.

A source network is an IPv4 /24 or an IPv6 /64, and a second of the budgets is 1.024 s. `reply_budget` does not apply to sources that
completed a handshake lately. Beside `out_of_state_budget`, 1,000 out-of-state segments a second pass on each CPU in all, and 1,000
more from such sources.

[How `auto` decides](../explanation/auto.md) says what the thresholds do together. `defender explain PORT` shows the numbers in
force for a service, and where each comes from.
";

/// The page.
pub(crate) fn page() -> String {
    let rows: Vec<_> = Setting::ALL.into_iter().map(row).collect();
    let modes: Vec<_> = Mode::ALL.map(|mode| [code(mode.name()), meaning_of(mode)]).into();
    head("Settings", INTRODUCTION)
        + &table(["key", "value", "default", "per port", "meaning"], &rows)
        + AFTER
        + "\n## Modes\n"
        + &table(["mode", "meaning"], &modes)
        + "\n## Sections of the configuration file\n"
        + SECTIONS
        + &table(["section", "key", "value", "default", "meaning"], &SectionKey::ALL.map(section_row))
}

fn section_row(key: SectionKey) -> [String; 5] {
    let (allowed, default) = (key.allowed().to_owned(), key.default().to_owned());
    [code(&format!("[{}]", key.section())), code(key.name()), allowed, default, sentence(key.description())]
}

fn row(setting: Setting) -> [String; 5] {
    let default =
        setting.default().map_or_else(|| "the host's".to_owned(), |value| code(&setting.show(value)));
    let per_port = if setting.is_per_port() { "yes" } else { "no" };
    [code(setting.name()), setting.allowed(), default, per_port.to_owned(), sentence(setting.description())]
}

/// What clap says about a mode.
fn meaning_of(mode: Mode) -> String {
    let value = mode.to_possible_value();
    sentence(&value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default())
}
