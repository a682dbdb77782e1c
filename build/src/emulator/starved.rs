//! How long a process ran, and how long it could have and got no processor, by the scheduler's own account (`schedstat`).

use std::time::Duration;

/// Time that the thread of `process` that waited longest has waited for a processor; zero where the host does not say.
pub fn time(process: u32) -> Duration {
    tasks(process).filter_map(|text| number(&text, WAITED)).max().unwrap_or_default()
}

/// Time that all threads of `process` ran; `None` where the host does not say, and of a process that is gone.
pub fn ran(process: u32) -> Option<Duration> {
    tasks(process).map(|text| number(&text, RAN)).reduce(|all, one| Some(all? + one?)).flatten()
}

/// What the scheduler says of each thread.
fn tasks(process: u32) -> impl Iterator<Item = String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
}

/// Nanoseconds on a processor.
const RAN: usize = 0;
/// Nanoseconds in a queue, with leave to run.
const WAITED: usize = 1;

fn number(schedstat: &str, place: usize) -> Option<Duration> {
    schedstat.split_whitespace().nth(place)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_a_processor_is_the_first_number_and_that_in_the_queue_the_second() {
        let text = "5239206972 48867997751 2361\n";
        let found = [RAN, WAITED].map(|place| number(text, place));
        assert_eq!(found, [5_239_206_972, 48_867_997_751].map(|time| Some(Duration::from_nanos(time))));
        assert_eq!(number("", WAITED), None);
    }

    #[test]
    fn a_process_that_is_gone_waited_for_nothing() {
        assert_eq!((time(u32::MAX), ran(u32::MAX)), (Duration::ZERO, None));
        assert!(ran(std::process::id()).is_some());
    }
}
