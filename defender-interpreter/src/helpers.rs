//! The kernel's helpers that the XDP program calls (include/uapi/linux/bpf.h has their numbers), as far as a packet of the
//! measured kinds needs them.

use anyhow::{Result, bail};

use crate::world::World;

const MAP_LOOKUP_ELEM: i32 = 1;
const KTIME_GET_NS: i32 = 5;
const XDP_ADJUST_META: i32 = 54;
const XDP_ADJUST_TAIL: i32 = 65;
const SK_RELEASE: i32 = 86;
const SKC_LOOKUP_TCP: i32 = 99;
const SKC_TO_TCP_SOCK: i32 = 137;
const RINGBUF_OUTPUT: i32 = 130;
const KTIME_GET_COARSE_NS: i32 = 160;
const XDP_GET_BUFF_LEN: i32 = 188;

/// What a helper did.
pub(crate) struct Answer {
    /// What it returns.
    pub(crate) value: u64,
    /// Whether it looked something up in an array.
    pub(crate) is_look_up: bool,
}

impl World {
    /// Calls a helper.
    pub(crate) fn help(&mut self, number: i32, arguments: [u64; 5]) -> Result<Answer> {
        let [first, second, ..] = arguments;
        let value = match number {
            MAP_LOOKUP_ELEM => {
                let (value, is_look_up) = self.look_up(first, second)?;
                return Ok(Answer { value, is_look_up });
            }
            KTIME_GET_NS | KTIME_GET_COARSE_NS => self.now(),
            XDP_ADJUST_META => self.adjust_metadata(second as i32)?,
            XDP_ADJUST_TAIL => self.adjust_tail(second as i32)?,
            XDP_GET_BUFF_LEN => self.packet_length(),
            SKC_LOOKUP_TCP => self.socket(),
            SKC_TO_TCP_SOCK => first,
            // Releasing it changes nothing, and nobody listens to events.
            SK_RELEASE | RINGBUF_OUTPUT => 0,
            _ => bail!("this interpreter does not know the helper {number}"),
        };
        Ok(Answer { value, is_look_up: false })
    }
}
