//! The testbed's eBPF programs. None of them is ever shipped.
//!
//! * `flood_v4`, `flood_v6`: the flood source, run with live frames ([`flood`]);
//! * `inject`: sends prepared frames in one batch, run with live frames ([`inject`]);
//! * `pass`, `absorb`, `absorb_flood`: the client end of the link ([`ends`]);
//! * `drop_range`, `swap_tx`, `rewrite_tx`: at the server end, the ceilings a defence is measured against ([`ends`]);
//! * `measure`: writes a frame anew and calls the program to be measured; `bare_drop`, `parse_drop`, `bare_swap`: the floors
//!   beside it ([`measure`]);
//! * `watch`: at tcx, a program that only counts ([`ends`]).
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "that is how programs get their context")]

#[path = "../../src/abi.rs"]
#[allow(dead_code, unreachable_pub, reason = "the other half of it is used by the host side")]
mod abi;
mod ends;
mod flood;
mod inject;
mod measure;
mod packet;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic; the verifier would refuse a program that loops.
    loop {}
}
