//! Mode `auto`: when a service is challenged and when no more, what clients see of it, and what people are told.

mod bed;
mod busy;
mod dry_run;
mod events;
mod floods;
#[path = "../traps/ground.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod ground;
#[path = "../traps/hand.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod hand;
mod limits;
mod queue;
mod settings;
mod ssh;
mod strays;
#[path = "../support/mod.rs"]
mod support;
#[path = "../traps/traffic.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod traffic;
mod turns;
