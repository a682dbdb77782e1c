//! How long a process could have run and got no processor, by the scheduler's own account (`schedstat`).

use std::time::Duration;

/// Time that the thread of `process` that waited longest has waited for a processor; zero where the host does not say.
pub fn time(process: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let waited = tasks.filter_map(|task| waited(&std::fs::read_to_string(task.path().join("schedstat")).ok()?));
    waited.max().unwrap_or_default()
}

/// The second number: nanoseconds in a queue, with leave to run.
fn waited(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_the_queue_is_the_second_number() {
        assert_eq!(waited("5239206972 48867997751 2361\n"), Some(Duration::from_nanos(48_867_997_751)));
        assert_eq!(waited("0 0 0\n"), Some(Duration::ZERO));
        assert_eq!(waited(""), None);
    }

    #[test]
    fn a_process_that_is_gone_waited_for_nothing() {
        assert_eq!(time(u32::MAX), Duration::ZERO);
    }
}
