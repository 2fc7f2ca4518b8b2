//! The units, under a real systemd: sandbox, service notifications, watchdog, restart, journal; and hooks.

mod bed;
mod hooks;
mod interfaces;
mod life;
mod units;
