//! What a TCP segment's flags make of it.

use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// The kinds of segment that are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Opens a connection.
    Syn,
    /// Answers an opening.
    SynAck,
    /// Acknowledges; may carry data or FIN.
    Ack,
    /// Resets.
    Rst,
    /// Flags no TCP sends: none of the above, or SYN, FIN and RST together.
    Odd,
}

/// Classifies by flags.
#[inline(always)]
pub const fn classify(flags: u8) -> Class {
    let kind = flags & (SYN | RST | FIN | ACK);
    // One after the other, the most frequent first.
    if kind == ACK || kind == FIN | ACK {
        Class::Ack
    } else if kind == SYN {
        Class::Syn
    } else if kind == SYN | ACK {
        Class::SynAck
    } else if kind & !ACK == RST {
        Class::Rst
    } else {
        Class::Odd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::{CWR, ECE};

    #[test]
    fn every_combination() {
        const PSH: u8 = 0x08;
        const URG: u8 = 0x20;
        for extra in [0, PSH, URG, ECE, CWR, ECE | CWR, PSH | URG | ECE | CWR] {
            for (flags, class) in [
                (SYN, Class::Syn),
                (SYN | ACK, Class::SynAck),
                (ACK, Class::Ack),
                (FIN | ACK, Class::Ack),
                (RST, Class::Rst),
                (RST | ACK, Class::Rst),
                (0, Class::Odd),
                (FIN, Class::Odd),
                (SYN | FIN, Class::Odd),
                (SYN | RST, Class::Odd),
                (SYN | FIN | ACK, Class::Odd),
                (RST | FIN, Class::Odd),
                (SYN | RST | FIN | ACK, Class::Odd),
            ] {
                assert_eq!(classify(flags | extra), class, "{flags:#x} {extra:#x}");
            }
        }
    }
}
