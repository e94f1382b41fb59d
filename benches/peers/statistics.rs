//! Medians.

/// The middle of the values, or the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { upper } else { f64::midpoint(values[values.len() / 2 - 1], upper) })
}

/// The value below which that share of the samples lies, in microseconds; the samples are nanoseconds.
pub(crate) fn percentile_us(samples: &mut [u32], share: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
    let index = ((samples.len() - 1) as f64 * share).round() as usize;
    let (_, value, _) = samples.select_nth_unstable(index);
    f64::from(*value) / 1_000.0
}
