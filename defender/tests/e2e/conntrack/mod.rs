//! Stateful firewall rules (conntrack): a challenged connection looks to conntrack like any other.

mod bursts;
mod environments;
mod once;
mod rules;
mod stale;
