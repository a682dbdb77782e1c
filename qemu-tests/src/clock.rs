//! Compares the clock of a guest, which says its time now and then, with the host's.
//!
//! A line takes a while to arrive, and longer when the host is busy, but never less than no time: of many lines
//! the quickest one says how far the two clocks are apart. What that distance grows by is the guest's error.

use crate::trial::Heard;
use std::time::Instant;

/// What a line with the guest's time begins with; seconds with a fraction follow.
const SAYS: &str = "clock says ";
/// Lines of the first and of the last seconds that are compared.
const WINDOW: f64 = 8.0;
/// Fewest lines in each window: of these, one is quick.
const FEWEST: usize = 10;

/// How a guest's clock ran.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Seconds of the host between the two comparisons.
    pub seconds: f64,
    /// By how much the guest's clock was too fast (positive) or too slow, in parts of the host's time.
    pub error: f64,
}

/// The rate of the clock that speaks in `transcript`.
///
/// # Errors
/// Too few lines to tell.
pub fn rate(transcript: &[Heard]) -> anyhow::Result<Rate> {
    let samples: Vec<(Instant, f64)> = transcript
        .iter()
        .filter_map(|line| Some((line.at, line.text.strip_prefix(SAYS)?.trim().parse().ok()?)))
        .collect();
    let Some((&(origin, begin), &(_, end))) = samples.first().zip(samples.last()) else {
        anyhow::bail!("the guest never said its time");
    };
    let early = quickest(&samples, origin, |time| time <= begin + WINDOW)?;
    let late = quickest(&samples, origin, |time| time >= end - WINDOW)?;
    let seconds = late.0 - early.0;
    anyhow::ensure!(seconds > WINDOW, "the guest said its time for {seconds:.1} s only");
    Ok(Rate { seconds, error: (late.1 - early.1) / seconds - 1.0 })
}

/// Among the samples whose guest time is `wanted`, the one that arrived soonest after it was said: the host's
/// seconds since `origin` and the guest's time.
fn quickest(samples: &[(Instant, f64)], origin: Instant, wanted: impl Fn(f64) -> bool) -> anyhow::Result<(f64, f64)> {
    let window: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| wanted(sample.1))
        .map(|&(at, guest)| (at.duration_since(origin).as_secs_f64(), guest))
        .collect();
    let lines = window.len();
    anyhow::ensure!(lines >= FEWEST, "{lines} lines with the guest's time in {WINDOW} s are too few: {FEWEST}");
    let first = window.iter().copied().min_by(|one, other| (one.0 - one.1).total_cmp(&(other.0 - other.1)));
    first.ok_or_else(|| anyhow::anyhow!("no line with the guest's time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Lines of a clock that runs `rate` times as fast as the host's and is late by `late` of the line's number.
    fn lines(rate: f64, late: impl Fn(u32) -> f64) -> Vec<Heard> {
        let origin = Instant::now();
        let line = |number| {
            let real = f64::from(number) * 0.25;
            Heard {
                at: origin + Duration::from_secs_f64(real + late(number)),
                text: format!("{SAYS}{:.2}\r", 30.0 + real * rate),
            }
        };
        (0..280).map(line).collect()
    }

    #[test]
    fn a_clock_that_is_right_has_no_error_however_late_most_lines_come() {
        let rate = rate(&lines(1.0, |number| f64::from(number * 7 % 11) * 0.05)).unwrap();
        assert!(rate.error.abs() < 0.0003 && rate.seconds > 50.0, "{rate:?}");
    }

    #[test]
    fn a_clock_that_is_wrong_has_its_error() {
        for error in [0.002, -0.002] {
            let rate = rate(&lines(1.0 + error, |number| f64::from(number % 3) * 0.01)).unwrap();
            assert!((rate.error - error).abs() < 0.0003, "{rate:?}");
        }
    }

    #[test]
    fn a_guest_that_says_too_little_is_an_error() {
        for (count, why) in [(0, "never"), (5, "too few"), (30, "only")] {
            let mut few = lines(1.0, |_| 0.0);
            few.truncate(count);
            let error = rate(&few).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
