//! The XDP program, packet by packet: each row is a frame, the state of the world it meets, and what becomes of it, byte
//! for byte. Frames are built by etherparse, cookies by another SipHash: not by the code under test.
//!
//! The program runs by `BPF_PROG_TEST_RUN` inside a network namespace of its own, with real sockets. Needs root.

mod datapath {
    mod bed;
    mod expected;
    mod frames;
    mod row;
    mod siphash;
    mod world;

    mod checksums;
    mod cookies;
    mod established;
    mod interpreted;
    mod link;
    mod malformed;
    mod network;
    mod options;
    mod out_of_state;
    mod queues;
    mod random;
    mod reasons;
    mod services;
    mod sockets;
    mod sources;
    mod verifier;
}
