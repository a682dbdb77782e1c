//! The generator of all random tests: xorshift64*, one word of state, so that a printed seed or a state word in
//! a state region says everything.

/// The generator.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed or a saved state; 0 counts as 1.
    pub const fn new(state: u64) -> Self {
        Self(if state == 0 { 1 } else { state })
    }

    /// The state, from which [`Random::new`] goes on.
    pub const fn state(&self) -> u64 {
        self.0
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 for 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(limit)) >> 64) as u64
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A word that is likely to be at an edge: small, all ones, a power of two and its neighbours, or anything.
    pub fn edge(&mut self) -> u64 {
        let bit = 1u64 << self.below(64);
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => bit,
            3 => bit - 1,
            4 => bit.wrapping_neg(),
            5 => self.below(300),
            6 => u64::MAX - self.below(300),
            _ => self.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_saved_state_goes_on_where_it_was_and_bounds_hold() {
        let mut first = Random::new(0);
        for _ in 0..100 {
            assert!(first.below(7) < 7);
        }
        let mut second = Random::new(first.state());
        assert_eq!(first.word(), second.word());
        assert_eq!(first.below(0), 0);
    }
}
