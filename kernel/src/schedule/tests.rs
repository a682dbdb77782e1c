//! What budgets, reserves and turns promise, on a simulated machine. Partition 0 serves, the others want something.

use crate::object::account::of_vcpu;
use crate::object::partition::Life;
use crate::simulation::{PERIOD, SLICE, Simulation, Then, now};

const SPIN: (u64, Then) = (1, Then::Spin);
const NO_LIMIT: i64 = i64::MAX;

/// A VM of `percent` in all whose `vmexit` works for `work` on each exit, beside a spinner that is promised the rest:
/// what both get, in tenths of a percent.
fn beside_a_spinner(vcpus: u8, percent: i64, reserve: i64, work: u64) -> (u64, u64) {
    let mut machine = Simulation::new();
    machine.partition(0, 0, (work, Then::Answer), reserve, NO_LIMIT);
    machine.partition(1, 100 - percent, SPIN, 0, NO_LIMIT);
    machine.vm(0, vcpus, percent / i64::from(vcpus), (1, Then::Exit));
    machine.run(200 * PERIOD);
    let (begin, before) = (now(), machine.ran);
    machine.run(200 * PERIOD);
    assert_eq!(machine.core.partitions[0].life, Life::Alive);
    let vm: u64 = (0..vcpus)
        .map(of_vcpu)
        .chain([0])
        .map(|index| machine.ran[usize::from(index)] - before[usize::from(index)])
        .sum();
    (machine.share(vm, begin), machine.share(machine.ran[1] - before[1], begin))
}

#[test]
fn what_a_reserve_spends_beyond_a_budget_is_paid_back() {
    for (vcpus, percent, reserve, work) in [
        (1, 5, 50_000, 1),
        (1, 5, 50_000, 49_000),
        (1, 5, 1_000, 900),
        (1, 10, 50_000, 20_000),
        (2, 10, 50_000, 49_000),
        (4, 20, 50_000, 49_000),
        (8, 8, 50_000, 49_000),
    ] {
        let (vm, spinner) = beside_a_spinner(vcpus, percent, reserve, work);
        let promised = percent as u64 * 10;
        let text =
            format!("{vcpus} vCPUs of {percent} % in all, {work} of {reserve}: VM {vm}, spinner {spinner} of 1000");
        assert!(vm <= promised + promised / 20 && spinner >= 990 - promised, "{text}");
    }
}

#[test]
fn a_payer_is_lent_a_reserve_to_end_its_work_at_its_own_priority() {
    let mut machine = Simulation::new();
    machine.partition(0, 0, (30_000, Then::Answer), 40_000, NO_LIMIT);
    machine.partition(1, 90, SPIN, 0, NO_LIMIT);
    machine.vm(0, 1, 10, (1, Then::Exit));
    machine.core.accounts[of_vcpu(0)].priority = 60;
    machine.run(31_000);
    assert_eq!(machine.done[0], 1, "budget of 10,000 and reserve: before the spinner's first slice");
}

#[test]
fn who_has_no_budget_left_has_the_time_that_nobody_wants() {
    let mut machine = Simulation::new();
    machine.partition(0, 1, (100, Then::Answer), 1_000, NO_LIMIT);
    machine.vm(0, 1, 5, (5_000, Then::Exit));
    machine.run(20 * PERIOD);
    assert_eq!(machine.idle, 0);
    assert!(machine.gap[usize::from(of_vcpu(0))] <= 200, "{:?}", machine.gap);
    assert!(machine.ran[usize::from(of_vcpu(0))] > 195 * PERIOD / 10);
}

#[test]
fn slack_is_shared_in_turn_and_takes_nothing_from_a_guarantee() {
    let mut machine = Simulation::new();
    for (index, percent) in [(1, 10), (2, 20), (3, 40)] {
        machine.partition(index, percent, SPIN, 0, NO_LIMIT);
    }
    // Priority orders guarantees, not the slack.
    machine.core.accounts[1].priority = 200;
    machine.run(100 * PERIOD);
    let share = |index: usize| machine.share(machine.ran[index], 1_000_000);
    for (index, promised) in [(1, 100), (2, 200), (3, 400)] {
        let got = share(index);
        assert!(got.abs_diff(promised + 100) <= 25, "{index}: {got}, promised {promised} and a third of 300");
    }
}

#[test]
fn one_that_wakes_with_budget_goes_before_all_in_the_slack() {
    let mut machine = Simulation::new();
    machine.partition(1, 1, SPIN, 0, NO_LIMIT);
    machine.partition(2, 1, SPIN, 0, NO_LIMIT);
    // It waits for a notification, at the lowest priority.
    machine.partition(3, 50, (100, Then::Answer), 0, NO_LIMIT);
    machine.core.accounts[3].priority = 1;
    machine.run(PERIOD / 2);
    for _ in 0..5 {
        let (begin, before) = (now(), machine.done[3]);
        machine.core.notify(3, 0);
        machine.core.partitions[3].thread.mask = 1;
        machine.core.notify(3, 1);
        while machine.done[3] == before {
            machine.run(1);
        }
        assert!(now() - begin <= 101, "{}", now() - begin);
        machine.run(12_345);
    }
}

#[test]
fn a_cap_holds_although_nobody_else_wants_the_time() {
    let mut machine = Simulation::new();
    machine.partition(1, 10, SPIN, 0, NO_LIMIT);
    machine.core.accounts[1].capped = true;
    machine.run(100 * PERIOD);
    let share = machine.share(machine.ran[1], 1_000_000);
    assert!((95..=101).contains(&share), "{share}");
    assert!(machine.gap[1] <= PERIOD);
}

#[test]
fn a_guarantee_holds_on_a_grid_also_for_one_that_was_held_up() {
    let mut machine = Simulation::new();
    machine.partition(1, 90, SPIN, 0, NO_LIMIT);
    machine.partition(2, 10, SPIN, 0, NO_LIMIT);
    machine.core.accounts[2].priority = 90;
    machine.run(100 * PERIOD);
    let share = machine.share(machine.ran[1], 1_000_000);
    assert!((895..=905).contains(&share), "{share}");
}

#[test]
fn equals_that_call_one_server_are_served_in_turn() {
    for work in [100, 9_000, 10_100, 12_000, 15_000] {
        let mut machine = Simulation::new();
        machine.partition(0, 0, (work, Then::Answer), 10_000, NO_LIMIT);
        for caller in 1..4 {
            machine.partition(caller, 33, (1, Then::Call), 0, NO_LIMIT);
            machine.endpoint(caller, 0);
        }
        machine.run(600 * PERIOD);
        let served = &machine.done[1..4];
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(most - least <= most / 10, "work of {work}: {served:?}");
        let paid = &machine.paid[1..4];
        let (least, most) = (paid.iter().min().unwrap(), paid.iter().max().unwrap());
        assert!(most - least <= most / 10, "work of {work}: paid {paid:?}");
    }
}

#[test]
fn the_call_limit_ends_work_that_takes_too_long_and_a_spent_budget_does_not() {
    let mut machine = Simulation::new();
    machine.partition(0, 0, (300_000, Then::Answer), 1_000, 1_000_000);
    machine.partition(1, 60, SPIN, 0, NO_LIMIT);
    machine.vm(0, 1, 5, (1, Then::Exit));
    machine.run(30 * PERIOD);
    assert!(machine.done[0] > 1 && machine.core.partitions[0].life == Life::Alive);
    machine.core.partitions[0].thread.call_limit = 200_000;
    machine.run(30 * PERIOD);
    assert_eq!(machine.core.partitions[0].life, Life::Frozen);
}

#[test]
fn a_server_that_calls_others_without_end_is_ended_by_its_call_limit() {
    let mut machine = Simulation::new();
    machine.partition(2, 0, (50, Then::Answer), 0, NO_LIMIT);
    machine.partition(0, 0, (1, Then::Answer), 1_000, 500_000);
    machine.endpoint(0, 2);
    machine.vm(0, 1, 50, (1, Then::Exit));
    machine.run(PERIOD);
    assert!(machine.done[0] > 100);
    machine.behave(0, (50, Then::Call));
    machine.run(4 * PERIOD);
    assert_eq!(machine.core.partitions[0].life, Life::Alive, "it is not ended before");
    machine.run(2 * PERIOD);
    assert_eq!(machine.core.partitions[0].life, Life::Frozen);
    assert_eq!(machine.core.partitions[2].life, Life::Alive, "who only answers is not to blame");
}

#[test]
fn time_in_which_the_processor_was_held_up_is_nobodys() {
    let mut machine = Simulation::new();
    machine.partition(0, 0, (5_000, Then::Answer), 1_000, 20_000);
    machine.vm(0, 1, 50, (1, Then::Exit));
    for _ in 0..50 {
        machine.run(5_000);
        machine.stand_still(10 * SLICE as u64);
    }
    assert_eq!(machine.core.partitions[0].life, Life::Alive);
}

/// A VM of two vCPUs of 20 % that wait for each other all the time, beside a spinner of 50 %: the longest time between two
/// turns of a vCPU, and what VM and spinner get in tenths of a percent.
fn waiting_for_each_other(spinner: bool) -> (u64, u64, u64) {
    let mut machine = Simulation::new();
    machine.partition(0, 1, (20, Then::Answer), 1_000, NO_LIMIT);
    if spinner {
        machine.partition(1, 50, SPIN, 0, NO_LIMIT);
    }
    machine.vm(0, 2, 20, (10, Then::Pause));
    machine.run(100 * PERIOD);
    let gap = [0, 1].map(|vcpu| machine.gap[usize::from(of_vcpu(vcpu))]);
    let share = |ran: u64| machine.share(ran, 1_000_000);
    (gap[0].max(gap[1]), share(machine.ran[0] + machine.ran[32] + machine.ran[33]), share(machine.ran[1]))
}

#[test]
fn a_vcpu_that_waits_for_another_of_its_vm_hands_its_time_over() {
    let (gap, vm, _) = waiting_for_each_other(false);
    assert!(gap <= 100 && vm >= 990, "{gap} {vm}");
}

#[test]
fn a_vm_whose_vcpus_hand_time_over_gives_nothing_to_others_and_takes_nothing() {
    let (_, vm, spinner) = waiting_for_each_other(true);
    assert!(vm >= 395 && spinner >= 495, "{vm} {spinner}");
}

#[test]
fn a_vcpu_that_pauses_and_has_no_sibling_with_work_goes_on() {
    let mut machine = Simulation::new();
    machine.partition(0, 1, (20, Then::Answer), 1_000, NO_LIMIT);
    machine.partition(1, 50, SPIN, 0, NO_LIMIT);
    machine.vm(0, 1, 40, (10, Then::Pause));
    machine.run(20 * PERIOD);
    let vm = machine.share(machine.ran[0] + machine.ran[32], 1_000_000);
    assert!(vm >= 395, "{vm}");
}

/// What vCPU 1 of 5 % gets, in tenths of a percent, that is otherwise than its sibling of 40 %, which pauses all the time,
/// beside a spinner of 50 %.
fn beside_an_unequal_sibling(priority: u8, capped: bool) -> u64 {
    let mut machine = Simulation::new();
    machine.partition(0, 1, (20, Then::Answer), 1_000, NO_LIMIT);
    machine.partition(1, 50, SPIN, 0, NO_LIMIT);
    machine.vm(0, 2, 40, (10, Then::Pause));
    machine.behave(of_vcpu(1), SPIN);
    let account = &mut machine.core.accounts[of_vcpu(1)];
    (account.priority, account.capped) = (priority, capped);
    (account.budget, account.left) = (PERIOD as i64 / 20, 0);
    machine.run(100 * PERIOD);
    machine.share(machine.ran[33], 1_000_000)
}

#[test]
fn time_is_handed_over_to_no_other_priority_and_past_no_cap() {
    let others =
        [(60, false), (40, false), (50, true)].map(|(priority, capped)| beside_an_unequal_sibling(priority, capped));
    assert!(others.into_iter().all(|share| share <= 120) && others[2] <= 50, "{others:?}");
    assert!(beside_an_unequal_sibling(50, false) >= 400, "an equal is handed it");
}
