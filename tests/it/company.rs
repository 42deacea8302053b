//! How far the score of a row depends on the rows that are computed with it, in `f32` on the default model.

use fedward::{data::held_out_benign_rows, model::score};
use fedward_actors::CancelFlag;

use crate::support::default_chat_model;

/// The bound that the README states, as a share of the row's log-likelihood.
const BOUND: f64 = 5e-6;

#[test]
fn company_moves_a_score_by_no_more_than_is_said() {
    let (model, cancel) = (default_chat_model(), CancelFlag::new());
    let rows = model.tokenize(&held_out_benign_rows(7, 32), 512).unwrap();
    assert_eq!(rows.len(), 32);
    let together = score(&model.base, None, &rows, &cancel).unwrap();
    let (mut equal, mut most_nats, mut most_share) = (0, 0.0_f64, 0.0_f64);
    for (row, in_company) in rows.iter().zip(&together) {
        let alone = score(&model.base, None, std::slice::from_ref(row), &cancel).unwrap()[0];
        assert_eq!(alone.response_tokens, in_company.response_tokens);
        let difference = (alone.log_likelihood - in_company.log_likelihood).abs();
        equal += usize::from(alone == *in_company);
        most_nats = most_nats.max(difference);
        most_share = most_share.max(difference / alone.log_likelihood.abs());
    }
    eprintln!(
        "{equal} of 32 rows to the last bit, others within {most_nats:e} nats, {most_share:e} of their likelihood"
    );
    assert!(most_share < BOUND, "{most_share:e}");
    // In another order rows keep other company.
    let reversed: Vec<_> = rows.iter().rev().cloned().collect();
    let backwards = score(&model.base, None, &reversed, &cancel).unwrap();
    for (one, other) in together.iter().zip(backwards.iter().rev()) {
        let difference = (one.log_likelihood - other.log_likelihood).abs();
        assert!(difference < BOUND * one.log_likelihood.abs(), "{difference:e}");
    }
}
