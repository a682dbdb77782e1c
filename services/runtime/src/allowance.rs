//! How often something that a guest can cause may happen: a number of times at once, and once a second after that. What
//! is left out is counted, so that it can be told.
//!
//! Pure: time comes in as seconds since boot.

/// What is left of an allowance.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    burst: u32,
    left: u32,
    second: u32,
    omitted: u32,
}

impl Allowance {
    /// `burst` times at once.
    pub const fn new(burst: u32) -> Self {
        Self { burst, left: burst, second: 0, omitted: 0 }
    }

    /// Whether it may happen at `second`.
    pub fn has(&mut self, second: u32) -> bool {
        let earned = second.saturating_sub(self.second);
        self.left = self.left.saturating_add(earned).min(self.burst);
        self.second = second;
        self.left > 0
    }

    /// Whether it happens at `second`: how many times it was left out before.
    pub fn take(&mut self, second: u32) -> Option<u32> {
        if self.has(second) {
            self.left -= 1;
            return Some(core::mem::take(&mut self.omitted));
        }
        self.omitted = self.omitted.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_without_end_is_let_through_once_a_second_and_the_rest_is_counted() {
        let mut allowance = Allowance::new(32);
        let heard = (0..1000).filter(|_| allowance.take(5).is_some()).count();
        assert_eq!(heard, 32);
        assert_eq!((allowance.has(5), allowance.has(6)), (false, true));
        assert_eq!(allowance.take(6), Some(1000 - 32));
        assert_eq!(allowance.take(6), None);
        assert_eq!(allowance.take(5), None);
        assert_eq!(allowance.take(u32::MAX), Some(2));
        assert_eq!((0..1000).filter(|_| allowance.take(u32::MAX).is_some()).count(), 31);
    }
}
