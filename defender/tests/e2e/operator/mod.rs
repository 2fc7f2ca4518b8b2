//! Everyday operation: nothing that hosts, users and files do stops the defence or makes it report what is not true.

pub(crate) mod bed;
mod ends;
mod files;
mod lists;
mod privilege;
mod reported;
mod signals;
mod sysctls;
mod takeover;
mod tools;
