//! Plain values and rules: settings, thresholds, triggers, attacks, baselines, services, lists.
//!
//! Nothing here reads or writes anything: no maps, no files, nothing of the host. Time is an argument.

pub mod attacks;
pub mod baseline;
pub mod config_file;
pub mod endpoint;
pub mod event;
pub mod evidence;
pub mod export;
pub mod exported;
pub mod finding;
pub mod guard;
pub mod hooks;
pub mod keys;
pub mod listen;
pub mod listener;
pub mod lists;
pub mod map_values;
pub mod mode;
pub mod number;
pub mod paint;
pub mod places;
pub mod prefix;
pub mod presence_filter;
pub mod prose;
pub mod protection;
pub mod section_table;
pub mod services;
pub mod setting_table;
pub mod settings;
pub mod status_line;
pub mod sysctls;
pub mod timestamp;
pub mod triggers;
pub mod window;
