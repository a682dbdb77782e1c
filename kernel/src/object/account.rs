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
    /// The budget is a limit, too: without budget it does not run.
    pub capped: bool,
    /// Ticks that it is guaranteed in each period.
    pub budget: i64,
    /// Length of the period.
    pub period: u64,
    /// Ticks left of the guarantee in this period; a debt when negative.
    pub left: i64,
    /// What of `left` is a server's reserve and will be paid back.
    pub loan: i64,
    /// It had no work at some time in this period, so what it did not use it did not want.
    pub rested: bool,
    /// When this period ends; periods follow each other without a gap.
    pub period_end: u64,
    /// Ticks left in this slice.
    pub slice_left: i64,
    /// Order among equals: the lowest runs first.
    pub turn: u64,
}

impl Account {
    /// Bring the account, which has work, into the period that `now` lies in. Each period that began since pays back of the
    /// debt. What was not used is lost if it was not wanted; if others came first it is kept, four budgets at most.
    pub fn refill(&mut self, now: u64) {
        let Some(late) = now.checked_sub(self.period_end) else { return };
        let periods = late.checked_div(self.period).unwrap_or(0).saturating_add(1);
        self.period_end = self.period_end.saturating_add(periods.saturating_mul(self.period));
        let paid = self.budget.saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX));
        let own = self.left.saturating_sub(core::mem::take(&mut self.loan));
        let kept = if core::mem::take(&mut self.rested) { 0 } else { own.clamp(0, self.budget << 2) };
        self.left = own.min(0).saturating_add(paid).min(self.budget).saturating_add(kept);
    }

    /// Whether it owes a loan, and not only what the core's own time costs at the end of a budget.
    pub fn owes(&self) -> bool {
        self.left.saturating_sub(self.loan).saturating_add(self.budget >> 4) < 0
    }

    /// Borrow the reserve of a server, once in a period and not while there is a debt: so the debt is never more than
    /// one reserve. `true` if it was.
    pub fn borrow_reserve(&mut self, reserve: i64) -> bool {
        let first = self.loan == 0 && reserve > 0;
        if first {
            (self.loan, self.left) = (reserve, self.left.saturating_add(reserve));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { budget: 100, period: 1000, left: 100, period_end: 1000, ..Account::default() }
    }

    #[test]
    fn an_account_is_refilled_on_a_grid_and_keeps_only_what_it_wanted_and_did_not_get() {
        let mut account = account();
        account.refill(999);
        assert_eq!((account.left, account.period_end), (100, 1000));
        (account.left, account.rested) = (40, true);
        account.refill(1000);
        assert_eq!((account.left, account.period_end), (100, 2000));
        account.left = 40;
        account.refill(2000);
        assert_eq!((account.left, account.period_end), (140, 3000));
        account.rested = true;
        account.refill(4700);
        assert_eq!((account.left, account.period_end), (100, 5000), "a late look moves no period");
    }

    #[test]
    fn what_a_reserve_spent_is_taken_from_the_next_periods() {
        let mut account = account();
        account.left = 0;
        assert!(account.borrow_reserve(250) && !account.borrow_reserve(250), "once");
        account.left -= 240;
        let left = [1000, 2000, 3000, 4000].map(|now| {
            account.rested = true;
            account.refill(now);
            account.left
        });
        assert_eq!(left, [-140, -40, 60, 100], "only what was spent");
    }

    #[test]
    fn every_period_that_passes_pays_back_also_while_there_is_no_work() {
        let mut account = account();
        account.left = 0;
        account.borrow_reserve(250);
        account.left = 0;
        account.refill(2000);
        assert_eq!((account.left, account.loan, account.period_end), (-50, 0, 3000));
    }

    #[test]
    fn an_account_without_a_period_stays_as_it_is() {
        let mut account = Account::default();
        account.refill(u64::MAX);
        assert_eq!((account.left, account.period_end), (0, 0));
    }
}
