//! What can go wrong with SYN cookies in front of a kernel, each case with a scripted client.

mod bursts;
mod established;
mod floods;
mod forged;
mod forgotten;
mod guard;
mod interfaces;
mod kernel_cookies;
mod lost;
mod modes;
mod options;
mod others;
mod reflection;
mod reuse;
mod sockets;
