//! What updates must be before they are combined, and how long vectors are.

use fedward_actors::{
    ports::{PortError, PortResult},
    protocol::{Adapter, ClientUpdate},
};

/// Refuses updates that do not fit the global adapter, or that there are none of.
pub(super) fn check(global: &Adapter, updates: &[ClientUpdate]) -> PortResult<()> {
    for update in updates {
        global
            .check_same_layout(&update.adapter)
            .map_err(|error| PortError::Failed(format!("{}: {error}", update.client)))?;
    }
    let rows: f64 = updates.iter().map(|update| update.n_examples * update.trust).sum();
    if rows > 0.0 {
        return Ok(());
    }
    let problem = format!("{} updates rest on 0 rows, expected at least one row in one update", updates.len());
    Err(PortError::Failed(problem))
}

/// Euclidean norm.
pub(super) fn l2_norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}
