//! Percentile bootstrap and Wilson intervals.
