// SPDX-License-Identifier: GPL-2.0

//! Decisions and contents, both by seed.

/// The generator of decisions (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The decisions of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A length up to `most`, which is not 0: often short, now and then all of it.
    pub fn length(&mut self, most: u64) -> u64 {
        let bound = match self.below(4) {
            0 => 1,
            1 => 20,
            2 => 200,
            _ => most,
        };
        1 + self.below(bound.min(most))
    }
}

/// The `len` bytes at `at` of the stream with this key: each shows when it is out of its place.
pub fn pattern(key: u64, at: u64, len: usize) -> Vec<u8> {
    let word = |n: u64| {
        Random(key ^ n.wrapping_mul(0xd6e8_feb8_6659_fd93))
            .bits()
            .to_le_bytes()
    };
    (at / 8..)
        .flat_map(word)
        .skip((at % 8) as usize)
        .take(len)
        .collect()
}
