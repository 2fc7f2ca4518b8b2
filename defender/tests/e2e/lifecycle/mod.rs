//! The lifecycle of a controller: its pins are removed; it is replaced, stopped and killed. Every command reports the truth
//! meanwhile.

mod bed;
mod export;
mod health;
mod interfaces;
mod pins;
mod replace;
