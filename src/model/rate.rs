//! Rates out of (counter, elapsed): no clock in here, the samples bring their time.

use std::collections::VecDeque;

/// Samples kept: at four a second, a little over a minute.
const CAPACITY: usize = 256;

/// A counter's recent past, from which rates and graphs are made.
#[derive(Clone, Debug)]
pub struct RateMeter {
    samples: VecDeque<(u64, u64)>,
    capacity: usize,
}

impl Default for RateMeter {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl RateMeter {
    /// A meter that keeps so many samples, the oldest giving way; a screen has thousands of rows, so theirs are small.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { samples: VecDeque::new(), capacity: capacity.max(2) }
    }

    /// Notes that the counter stood at `count` at `at_ms` (milliseconds of any steady clock).
    /// A sample that is not later than the last replaces it; a counter that fell (a new run) starts anew.
    pub fn sample(&mut self, at_ms: u64, count: u64) {
        if let Some(&(last_ms, last)) = self.samples.back() {
            if count < last {
                self.samples.clear();
            } else if at_ms <= last_ms {
                self.samples.pop_back();
            }
        }
        if self.samples.len() == self.capacity {
            self.samples.pop_front();
        }
        self.samples.push_back((at_ms, count));
    }

    /// Units per second over the `window_ms` before `now_ms`; `None` with less than two samples in it.
    pub fn per_second(&self, now_ms: u64, window_ms: u64) -> Option<f64> {
        let from = now_ms.saturating_sub(window_ms);
        let start = self.samples.iter().rposition(|&(at, _)| at <= from);
        let (first_ms, _) = *self.samples.get(start.unwrap_or(0))?;
        let (last_ms, last) = *self.samples.back()?;
        if self.samples.len() - start.unwrap_or(0) < 2 {
            return None;
        }
        // Where a sample lies before the window, what came before the window is left out: it may be long ago.
        let first_ms = first_ms.max(from);
        let first = self.at(first_ms)?;
        let span = now_ms.max(last_ms).checked_sub(first_ms).filter(|span| *span > 0)?;
        Some((last as f64 - first) * 1000.0 / span as f64)
    }

    /// Rates of the last `buckets` whole spans of `bucket_ms` before `now_ms`, oldest first; 0 where nothing is known.
    pub fn history(&self, now_ms: u64, bucket_ms: u64, buckets: usize) -> Vec<f64> {
        let end = now_ms - now_ms % bucket_ms;
        (0..buckets)
            .rev()
            .map(|back| {
                let to = end.saturating_sub(back as u64 * bucket_ms);
                let from = to.saturating_sub(bucket_ms);
                match (self.at(from), self.at(to)) {
                    (Some(a), Some(b)) => (b - a).max(0.0) * 1000.0 / bucket_ms as f64,
                    _ => 0.0,
                }
            })
            .collect()
    }

    /// The counter at a moment, interpolated; flat after the last sample, `None` before the first.
    fn at(&self, at_ms: u64) -> Option<f64> {
        let next = self.samples.partition_point(|&(at, _)| at < at_ms);
        match (next.checked_sub(1).map(|i| self.samples[i]), self.samples.get(next)) {
            (_, Some(&(at, count))) if at == at_ms => Some(count as f64),
            (Some((before, low)), Some(&(after, high))) => {
                Some(low as f64 + (high - low) as f64 * (at_ms - before) as f64 / (after - before) as f64)
            }
            (Some((_, count)), None) => Some(count as f64),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_a_steady_rate() {
        let mut meter = RateMeter::default();
        for step in 0..20 {
            meter.sample(step * 250, step * 500);
        }
        assert_eq!(meter.per_second(4750, 1000), Some(2000.0));
        assert_eq!(meter.history(4750, 1000, 3), vec![2000.0; 3]);
    }

    #[test]
    fn silence_brings_the_rate_to_zero() {
        let mut meter = RateMeter::default();
        meter.sample(0, 0);
        meter.sample(1000, 1000);
        meter.sample(2000, 1000);
        meter.sample(3000, 1000);
        assert_eq!(meter.per_second(3000, 1000), Some(0.0));
    }

    #[test]
    fn what_comes_after_a_silence_is_not_spread_over_it() {
        let mut meter = RateMeter::default();
        meter.sample(0, 0);
        meter.sample(50_000, 0);
        meter.sample(50_200, 74);
        assert_eq!(meter.per_second(50_200, 1000), Some(74.0));
        assert_eq!(meter.per_second(51_000, 1000), Some(74.0));
        assert_eq!(meter.per_second(51_200, 1000), None, "nothing is known of the last second yet");
    }

    #[test]
    fn one_sample_is_no_rate_and_a_fallen_counter_starts_anew() {
        let mut meter = RateMeter::default();
        meter.sample(0, 10);
        assert_eq!(meter.per_second(0, 1000), None);
        meter.sample(1000, 5);
        assert_eq!(meter.per_second(1000, 1000), None);
    }
}
