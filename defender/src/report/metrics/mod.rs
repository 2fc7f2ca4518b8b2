//! Metrics for Prometheus and its kin, and the probes of orchestrators, over HTTP.
//!
//! An [`exporter`] has a thread of its own. It reads maps and files as the other reports do, and nothing of the control loop but
//! what that leaves in [`Exported`](crate::model::exported::Exported). So a scrape never makes the loop wait.

pub mod exporter;
pub mod families;
mod http;
mod kept;
mod own_series;
mod page;
mod reading;
mod service;
mod socket;
