//! `top` in a real terminal: what it shows of a flood, and how it leaves the terminal.

mod bed;
mod ends;
mod shows;
