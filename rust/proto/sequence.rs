// SPDX-License-Identifier: GPL-2.0

//! Arithmetic in the ring of sequence numbers modulo 2^32 (`A.1`).

/// How far `a` is ahead of `b`; 0 when it is behind.
pub(super) fn ahead(a: u32, b: u32) -> u32 {
    // CAST: two's complement is meant.
    let difference = a.wrapping_sub(b) as i32;
    difference.max(0).unsigned_abs()
}

/// Whether `a` is `b` or after it.
pub(super) fn reached(a: u32, b: u32) -> bool {
    // CAST: two's complement is meant.
    a.wrapping_sub(b) as i32 >= 0
}

/// Forgets a message of ours once the peer has it.
pub(super) fn forget_reached(message: &mut Option<u32>, mseq_ack: u32) {
    if message.is_some_and(|mseq| reached(mseq_ack, mseq)) {
        *message = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_1_sequence_numbers_wrap() {
        assert_eq!(ahead(2, u32::MAX), 3);
        assert_eq!(ahead(u32::MAX, 2), 0);
        assert!(reached(0, u32::MAX) && reached(7, 7) && !reached(u32::MAX, 0));
    }
}
