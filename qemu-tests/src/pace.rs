//! How long work takes in the Debian guest beside what the same kernel and RAM disk need for it on the bare emulator. Both
//! count instructions, so a host that is busy makes no difference.

use crate::debian::Scenario;
use anyhow::Context;
use portcullis_build::emulator::machine::{Boot, Machine};
use portcullis_build::emulator::{Emulator, Event};
use portcullis_build::guest;
use std::collections::BTreeMap;
use std::time::Duration;

/// Work by its name in the guest's test `pace`, and how much longer it may take than on the bare emulator, in percent.
const WORK: [(&str, u64); 2] = [("compute", 3), ("start-programs", 15)];
/// Resolution of the guest's clock is 10 ms; what takes less than this is not a measurement.
const LEAST_MS: u64 = 700;
/// RAM of the bare machine, MiB, which is what the guest has.
const MEMORY_MIB: u32 = 384;
/// Said when the tests in the guest are done.
const DONE: &str = "portcullis-guest: done: ";

/// Milliseconds of the guest's clock, by the name of the work.
pub type Paces = BTreeMap<String, u64>;

/// What lines say: `pace NAME N ms`.
pub fn said<'a>(lines: impl Iterator<Item = &'a str>) -> Paces {
    let pace = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["pace", name, value, "ms"] => Some((name.to_owned(), value.parse().ok()?)),
        _ => None,
    };
    lines.filter_map(pace).collect()
}

/// Boots kernel and RAM disk of the scenario without a hypervisor, and lets the test run.
///
/// # Errors
/// The machine ended or was silent before the test was done.
pub fn bare(scenario: &Scenario, limit: Duration) -> anyhow::Result<Paces> {
    guest::ensure(&[scenario.kernel, scenario.disk])?;
    let file = |name| guest::resolve(name).with_context(|| format!("nothing is named {name}"));
    let command_line = format!("console=ttyS0 portcullis.run=test:{} {}", scenario.tests.join(","), scenario.append);
    let boot = Boot::Pvh { core: file(scenario.kernel)?, bundle: Some(file(scenario.disk)?), command_line };
    let machine = Machine { icount: true, ..Machine::new(boot, MEMORY_MIB) };
    let mut emulator = Emulator::start(&machine, limit)?;
    let mut text = Vec::new();
    loop {
        match emulator.next(Duration::from_secs(1)) {
            Event::Com1(bytes) => text.extend(bytes),
            Event::Com2(_) | Event::Exit(_) | Event::Quiet => {}
            event => anyhow::bail!("{event:?} of the bare machine:\n{}", String::from_utf8_lossy(&text)),
        }
        let text = String::from_utf8_lossy(&text);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if whole.contains(DONE) {
            return Ok(said(whole.lines()));
        }
    }
}

/// A line that tells how the two compare.
///
/// # Errors
/// Work that took longer than it may, or was not measured.
pub fn compare(guest: &Paces, bare: &Paces) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, percent) in WORK {
        let (Some(&ours), Some(&theirs)) = (guest.get(name), bare.get(name)) else {
            anyhow::bail!("{name} was not measured: {guest:?} in the guest, {bare:?} on the bare emulator");
        };
        anyhow::ensure!(theirs >= LEAST_MS, "{name} took {theirs} ms, too little to compare: give it more to do");
        let said = format!("{name}: {ours} ms in the guest, {theirs} ms on the bare emulator");
        anyhow::ensure!(ours * 100 <= theirs * (100 + percent), "{said}: more than {percent} % longer");
        text += &format!("{said}; ");
    }
    Ok(text.trim_end_matches("; ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(compute: u64, programs: u64) -> Paces {
        let lines = format!("test pace\npace compute {compute} ms\nok x\r\npace start-programs {programs} ms\r\n");
        said(lines.lines())
    }

    #[test]
    fn work_that_takes_longer_than_it_may_is_named() {
        let bare = paces(1_000, 2_000);
        assert!(compare(&paces(1_030, 2_300), &bare).is_ok());
        let message = |guest: &Paces| compare(guest, &bare).unwrap_err().to_string();
        assert!(message(&paces(1_031, 2_000)).starts_with("compute: 1031 ms in the guest"));
        assert!(message(&paces(1_000, 2_301)).ends_with("more than 15 % longer"));
    }

    #[test]
    fn work_that_was_not_measured_or_only_shortly_is_no_success() {
        let bare = paces(1_000, 2_000);
        assert!(compare(&Paces::new(), &bare).is_err());
        assert!(compare(&bare, &Paces::new()).is_err());
        assert!(compare(&paces(10, 10), &paces(10, 10)).is_err());
    }
}
