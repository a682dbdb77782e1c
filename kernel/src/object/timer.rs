//! Timers: one TSC deadline each, that becomes notification bits in its holder.

use super::table::Table;
use crate::state::Index;
use portcullis_ipc::limits;
use zerocopy::FromZeros;

/// One timer.
#[derive(FromZeros)]
pub struct Timer {
    /// Absolute TSC value; 0 while it is not armed.
    deadline: u64,
    /// Partition that holds it.
    pub holder: Index,
    /// Bits it sets.
    pub bits: u64,
}

/// All timers and the earliest deadline among them, 0 if none is armed.
#[derive(FromZeros)]
pub struct Timers {
    /// Each, by its index.
    pub timers: Table<Timer, { limits::TIMERS }>,
    next: u64,
}

impl Timers {
    /// Earliest deadline, `u64::MAX` if none is armed.
    pub fn next(&self) -> u64 {
        if self.next == 0 { u64::MAX } else { self.next }
    }

    fn update(&mut self) {
        let armed = self.timers.iter().map(|(_, timer)| timer.deadline).filter(|deadline| *deadline != 0);
        self.next = armed.min().unwrap_or(0);
    }

    /// Arm timer `index`; a deadline of 0 disarms it.
    pub fn arm(&mut self, index: u8, deadline: u64) {
        self.timers[index].deadline = deadline;
        self.update();
    }

    /// Disarm all timers of `holder`.
    pub fn disarm(&mut self, holder: u8) {
        for (_, timer) in self.timers.iter_mut() {
            if timer.holder == Index::of(holder) {
                timer.deadline = 0;
            }
        }
        self.update();
    }

    /// Take one timer whose deadline has come: its holder and bits.
    pub fn expired(&mut self, now: u64) -> Option<(u8, u64)> {
        if now < self.next() {
            return None;
        }
        let (_, timer) = self.timers.iter_mut().find(|(_, timer)| timer.deadline == self.next)?;
        timer.deadline = 0;
        let (holder, bits) = (timer.holder.get()?, timer.bits);
        self.update();
        Some((holder, bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_expires_once_and_not_before_its_deadline() {
        let mut timers = Timers::new_zeroed();
        for (index, holder, bits, deadline) in [(1, 4, 0b10, 100), (2, 5, 0b100, 50)] {
            (timers.timers[index].holder, timers.timers[index].bits) = (Index::of(holder), bits);
            timers.arm(index, deadline);
        }
        assert_eq!(timers.next(), 50);
        assert_eq!(timers.expired(49), None);
        assert_eq!(timers.expired(100), Some((5, 0b100)), "the earliest first");
        assert_eq!(timers.expired(100), Some((4, 0b10)));
        assert_eq!(timers.expired(u64::MAX - 1), None);
        timers.arm(1, 7);
        timers.disarm(4);
        assert_eq!(timers.next(), u64::MAX);
    }
}
