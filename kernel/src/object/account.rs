//! An account: who pays for processor time. Every partition has one for its own work, every vCPU has one;
//! a call or an exit is served on the account of the one who asked.

use portcullis_ipc::limits;
use zerocopy::FromZeros;

/// Number of accounts: partitions first, then vCPUs.
pub const ACCOUNTS: usize = 64;
static_assertions::const_assert!(limits::PARTITIONS + limits::VCPUS <= ACCOUNTS);

/// Account of vCPU `vcpu`.
pub const fn of_vcpu(vcpu: u8) -> u8 {
    vcpu.wrapping_add(limits::PARTITIONS as u8)
}

/// Budget and turn of one account; times in TSC ticks. All zeros never runs.
#[derive(Clone, Copy, Default, FromZeros)]
pub struct Account {
    /// Higher runs first.
    pub priority: u8,
    /// Ticks it may use in each period.
    pub budget: i64,
    /// Length of the period.
    pub period: u64,
    /// Ticks left in this period; what a reserve had to pay is not in it.
    pub left: i64,
    /// When this period ends.
    pub period_end: u64,
    /// Ticks left in this slice.
    pub slice_left: i64,
    /// Order among equals: the lowest runs first.
    pub turn: u64,
}

impl Account {
    /// Charge `ticks`.
    #[inline]
    pub fn charge(&mut self, ticks: i64) {
        self.left = self.left.saturating_sub(ticks);
        self.slice_left = self.slice_left.saturating_sub(ticks);
    }

    /// Start a new period if the old one is over. An overdraft carries over.
    pub fn refill(&mut self, now: u64) -> bool {
        if now < self.period_end {
            return false;
        }
        self.left = self.left.min(0).saturating_add(self.budget).max(1);
        self.period_end = now.saturating_add(self.period);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_refilled_only_when_its_period_is_over_and_pays_back_its_overdraft() {
        let mut account = Account { budget: 100, period: 1000, left: -30, period_end: 1000, ..Account::default() };
        assert!(!account.refill(999));
        assert!(account.refill(1000));
        assert_eq!((account.left, account.period_end), (70, 2000));
        account.charge(500);
        assert!(account.refill(5000));
        assert_eq!(account.left, 1, "a huge overdraft never stops an account for good");
    }
}
