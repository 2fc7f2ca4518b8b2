//! Mode `auto`: when challenges start and end, what clients notice, and what is reported.

mod bed;
mod busy;
mod dry_run;
mod events;
mod floods;
mod limits;
mod not_queued;
mod out_of_state;
mod queue;
mod settings;
mod ssh;
mod stalled;
mod turns;
