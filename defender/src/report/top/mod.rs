//! `top`: readings as frames of a terminal, and keys as changes of what is shown. Pure but for [`reading`] and [`detail`].

pub mod data;
pub mod detail;
pub mod filter;
pub mod keys;
pub mod look;
pub mod order;
pub mod reading;
pub mod state;
pub mod view;

#[cfg(test)]
mod example;
#[cfg(test)]
mod screens;
