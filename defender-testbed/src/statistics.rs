//! Medians and percentiles of a few numbers.

/// The value below which the share `p` (0 to 1) of the values lies: the smallest one that is at least as big as that
/// share of them. Nothing for no values.
pub fn percentile<T: Copy + PartialOrd>(values: &[T], p: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The middle value; of two, the lower. Nothing for no values.
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    percentile(values, 0.5)
}

/// The least and the greatest value.
pub fn extremes<T: Copy + PartialOrd>(values: &[T]) -> Option<(T, T)> {
    Some((percentile(values, 0.0)?, percentile(values, 1.0)?))
}

#[cfg(test)]
mod tests {
    use super::{extremes, median, percentile};

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(percentile(&values, 0.99), Some(99));
        assert_eq!(percentile(&values, 0.5), Some(50));
        assert_eq!(percentile(&values, 1.0), Some(100));
        assert_eq!(percentile(&values, 0.0), Some(1));
    }

    #[test]
    fn few_values_are_fine() {
        assert_eq!(median::<u32>(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(percentile(&[1, 2], 0.99), Some(2));
        assert_eq!(extremes(&[2, 1, 3]), Some((1, 3)));
    }
}
