//! The table of the configuration file's sections: what concerns the program and not a service. Pure.
//!
//! The file's parser, its messages and the reference follow from it.

use std::fmt;

/// All there is to say about a key of a section.
struct Declaration {
    section: &'static str,
    name: &'static str,
    allowed: &'static str,
    default: &'static str,
    description: &'static str,
}

macro_rules! sections {
    ($($key:ident: $section:literal, $name:literal, $allowed:literal, $default:literal, $description:literal;)*) => {
        /// A key of a section.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SectionKey {
            $(#[doc = $description] $key,)*
        }

        impl SectionKey {
            /// Every key.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$key),*];

            const fn declaration(self) -> Declaration {
                match self {
                    $(Self::$key => Declaration {
                        section: $section,
                        name: $name,
                        allowed: $allowed,
                        default: $default,
                        description: $description,
                    },)*
                }
            }
        }
    };
}

// The order is that of listings.
sections! {
    Interfaces: "interfaces", "names", "an array of interface names", "those with a default route",
        "Defend these interfaces. `--iface` replaces them.";
    OnEvent: "hooks", "on_event", "an array of an absolute path and arguments", "none",
        "Run this program for each event, with the event as JSON on standard input.";
    HookTimeout: "hooks", "timeout", "a time from 1s to 1h", "10s",
        "Kill the program, with its process group, if it takes longer.";
    MetricsListen: "metrics", "listen", "ADDRESS:PORT, [ADDRESS]:PORT or unix:/PATH", "nowhere",
        "Serve `/metrics`, `/healthz` and `/readyz` over HTTP at this address or Unix socket. SIGHUP applies a change.";
}

impl SectionKey {
    /// The table it is in.
    pub const fn section(self) -> &'static str {
        self.declaration().section
    }

    /// Its name there.
    pub const fn name(self) -> &'static str {
        self.declaration().name
    }

    /// What is allowed, in words.
    pub const fn allowed(self) -> &'static str {
        self.declaration().allowed
    }

    /// What holds without it, in words.
    pub const fn default(self) -> &'static str {
        self.declaration().default
    }

    /// What it does, in a sentence.
    pub const fn description(self) -> &'static str {
        self.declaration().description
    }

    /// The keys of a section; none: there is no such section.
    pub fn of(section: &str) -> Vec<Self> {
        Self::ALL.into_iter().filter(|key| key.section() == section).collect()
    }

    /// The names of the sections, for a message.
    pub fn sections() -> String {
        let mut names: Vec<_> = Self::ALL.into_iter().map(|key| format!("[{}]", key.section())).collect();
        names.dedup();
        names.join(", ")
    }
}

/// As messages have it: `metrics.listen`.
impl fmt::Display for SectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_found_by_section() {
        for key in SectionKey::ALL {
            let same = |other: &&SectionKey| (other.section(), other.name()) == (key.section(), key.name());
            assert_eq!(SectionKey::ALL.iter().filter(same).count(), 1);
            assert!(SectionKey::of(key.section()).contains(&key) && key.description().ends_with('.'));
        }
        assert_eq!(SectionKey::sections().matches("[hooks]").count(), 1, "{}", SectionKey::sections());
        assert!(SectionKey::of("mode").is_empty());
        assert_eq!(SectionKey::HookTimeout.to_string(), "hooks.timeout");
    }
}
