//! `/metrics`, `/healthz` and `/readyz`: what they say, whom they serve, and what they must never cost.

mod agreement;
mod bed;
mod clients;
mod places;
mod prometheus;
mod scale;
