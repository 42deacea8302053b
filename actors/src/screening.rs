//! What may enter the aggregation: updates that are valid, and that the update screen, where there is one, lets in.

use std::{collections::HashSet, sync::Arc};

use rayon::prelude::*;

use crate::{
    cancel::CancelFlag,
    ports::{Candidate, ClientUpdate, Judgement, UpdateScreen},
    protocol::{
        Adapter, AdapterError,
        server::{Admitted, ScreenOrder, ScreenedUpdate},
    },
    records::RejectReason,
};

/// Checks updates against the adapter that they started from (invariants) and against each other, then
/// has those that are valid judged.
pub(crate) fn screen_updates(
    screen: Option<&dyn UpdateScreen>,
    order: &ScreenOrder,
    cancel: &CancelFlag,
) -> Vec<ScreenedUpdate> {
    let ScreenOrder { id, global, updates } = order;
    let norms = measure(global, updates);
    let valid = updates.iter().zip(&norms);
    let candidates: Vec<Candidate<'_>> =
        valid.filter_map(|(update, norm)| Some(Candidate { update, delta_norm: *norm.as_ref().ok()? })).collect();
    let judged = match screen {
        None => Ok(vec![Judgement::Keep; candidates.len()]),
        Some(screen) => judge(screen, id.round, global, &candidates, cancel),
    };
    let mut admitted = candidates.iter().enumerate().map(|(index, candidate)| match &judged {
        Ok(judgements) => admit(global, *candidate, &judgements[index]),
        Err(reason) => Err(RejectReason::ScreenUnavailable(reason.clone())),
    });
    let screened = |norm: Result<f64, RejectReason>| ScreenedUpdate {
        delta_norm: norm.as_ref().ok().copied(),
        verdict: norm.and_then(|_| admitted.next().unwrap_or(Err(RejectReason::Stale))),
    };
    norms.iter().cloned().map(screened).collect()
}

/// Updates that were not screened, for a reason in words: none has a way in (invariant A-3).
pub(crate) fn unscreened(updates: usize, reason: &str) -> Vec<ScreenedUpdate> {
    let verdict = Err(RejectReason::ScreenUnavailable(format!("screening {reason}")));
    vec![ScreenedUpdate { delta_norm: None, verdict }; updates]
}

/// The norm of each update's delta, or why the update is no valid one.
fn measure(global: &Adapter, updates: &[ClientUpdate]) -> Vec<Result<f64, RejectReason>> {
    let mut seen = HashSet::new();
    let repeated: Vec<bool> = updates.iter().map(|update| !seen.insert(update.client)).collect();
    let measure = |(update, repeated): (&ClientUpdate, bool)| {
        if repeated { Err(RejectReason::Stale) } else { delta_norm(global, update) }
    };
    updates.par_iter().zip(repeated).map(measure).collect()
}

/// The norm of an update's delta, or why the update is refused.
fn delta_norm(global: &Adapter, update: &ClientUpdate) -> Result<f64, RejectReason> {
    let refused = |error| match error {
        AdapterError::NotFinite { tensor } => RejectReason::NotFinite(tensor),
        AdapterError::LayoutMismatch(difference) => RejectReason::LayoutMismatch(difference),
        AdapterError::WrongLength { .. } => RejectReason::LayoutMismatch(error.to_string()),
    };
    update.extras.check(global).map_err(refused)?;
    global.check_same_layout(&update.adapter).map_err(refused)?;
    let distance = distance(&update.adapter, global);
    // Squares of differences of f32 stay far below the largest f64: only a value that is not finite spoils the sum.
    if !distance.is_finite() {
        update.adapter.check_finite().map_err(refused)?;
    }
    Ok(distance)
}

/// An adapter that may stand beside `global`: of its layout, every value finite.
pub(crate) fn check(global: &Adapter, other: &Adapter) -> Result<(), AdapterError> {
    global.check_same_layout(other)?;
    other.check_finite()
}

/// Euclidean distance of two adapters of one layout, without a buffer for their difference.
pub(crate) fn distance(a: &Adapter, b: &Adapter) -> f64 {
    // Sixteen sums side by side, which do not wait for one another; always the same ones, so that the result is.
    const LANES: usize = 16;
    let mut sums = [0.0_f64; LANES];
    let (a, a_rest) = a.values().as_chunks::<LANES>();
    let (b, b_rest) = b.values().as_chunks::<LANES>();
    let square = |a: f32, b: f32| {
        let difference = f64::from(a) - f64::from(b);
        difference * difference
    };
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += square(a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += square(a, b);
    }
    sums.iter().sum::<f64>().sqrt()
}

/// One judgement a candidate, or in words why there are none.
fn judge(
    screen: &dyn UpdateScreen,
    round: crate::protocol::RoundId,
    global: &Adapter,
    candidates: &[Candidate<'_>],
    cancel: &CancelFlag,
) -> Result<Vec<Judgement>, String> {
    let name = screen.name();
    let judgements =
        screen.judge(round, global, candidates, cancel).map_err(|error| format!("{name} failed: {error}"))?;
    if judgements.len() != candidates.len() {
        return Err(format!("{name} gave {} judgements for {} updates", judgements.len(), candidates.len()));
    }
    Ok(judgements)
}

/// What a judgement lets in of an update. One that would lengthen a delta is none.
fn admit(global: &Adapter, candidate: Candidate<'_>, judgement: &Judgement) -> Result<Admitted, RejectReason> {
    let Candidate { update, delta_norm } = candidate;
    match judgement {
        Judgement::Keep => Ok(unchanged(update, None)),
        &Judgement::Weigh(trust) if (0.0..=1.0).contains(&trust) => Ok(unchanged(update, Some(trust))),
        Judgement::Weigh(trust) => {
            Err(RejectReason::ScreenUnavailable(format!("found a trust of {trust}; allowed: 0 to 1")))
        }
        Judgement::Reject(reason) => Err(RejectReason::Screened(reason.clone())),
        &Judgement::Clip(norm) if (0.0..=delta_norm).contains(&norm) => {
            let ratio = if delta_norm > 0.0 { norm / delta_norm } else { 1.0 };
            let nothing = Adapter::zeros(Arc::clone(global.layout()));
            Ok(Admitted {
                adapter: scaled(global, &update.adapter, ratio),
                extras: update.extras.map_vectors(|vector| scaled(&nothing, vector, ratio)),
                clipped_to: Some(norm),
                trust: None,
            })
        }
        Judgement::Clip(norm) => {
            let reason = format!("found a clip to {norm}; allowed: 0 to the delta's norm of {delta_norm}");
            Err(RejectReason::ScreenUnavailable(reason))
        }
    }
}

/// An update that enters as it was sent.
fn unchanged(update: &ClientUpdate, trust: Option<f64>) -> Admitted {
    Admitted { adapter: update.adapter.clone(), extras: update.extras.clone(), clipped_to: None, trust }
}

/// `global + ratio (local - global)`, each value rounded once: it lies between the two, so it is finite if they are.
fn scaled(global: &Adapter, local: &Adapter, ratio: f64) -> Adapter {
    let between = |(&global, &local): (&f32, &f32)| {
        let global = f64::from(global);
        (global + ratio * (f64::from(local) - global)) as f32
    };
    let values = global.values().par_iter().zip(local.values()).map(between).collect();
    Adapter::new(Arc::clone(global.layout()), values).unwrap_or_else(|_| global.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::{PortError, PortResult},
        protocol::{AdapterLayout, Attempt, ClientId, Payload, RequestId, RoundId},
        testing::{layout_of_rank, tiny_layout},
    };

    fn update(client: u32, value: f32) -> ClientUpdate {
        let adapter = Adapter::new(tiny_layout(), vec![value; 8]).unwrap();
        ClientUpdate { client: ClientId(client), adapter, n_examples: 1.0, trust: 1.0, extras: Payload::default() }
    }

    fn order(updates: Vec<ClientUpdate>) -> ScreenOrder {
        let id = RequestId { round: RoundId(1), attempt: Attempt::FIRST };
        ScreenOrder { id, global: Adapter::new(tiny_layout(), vec![1.0; 8]).unwrap(), updates }
    }

    /// Gives the same judgements whatever it is asked.
    struct Fixed(PortResult<Vec<Judgement>>);

    impl UpdateScreen for Fixed {
        fn name(&self) -> &'static str {
            "fixed"
        }

        fn judge(&self, _: RoundId, _: &Adapter, _: &[Candidate<'_>], _: &CancelFlag) -> PortResult<Vec<Judgement>> {
            self.0.clone()
        }
    }

    fn verdicts(screen: PortResult<Vec<Judgement>>, updates: Vec<ClientUpdate>) -> Vec<Result<Admitted, RejectReason>> {
        let screened = screen_updates(Some(&Fixed(screen)), &order(updates), &CancelFlag::new());
        screened.into_iter().map(|screened| screened.verdict).collect()
    }

    #[test]
    fn screening_refuses_layout_values_and_repetition_and_measures_the_rest() {
        let mut other = update(2, 1.0);
        other.adapter = Adapter::zeros(layout_of_rank(3));
        let updates = vec![update(0, 3.0), update(1, f32::NEG_INFINITY), other, update(0, 9.0)];
        let screened = screen_updates(None, &order(updates), &CancelFlag::new());
        assert!((screened[0].delta_norm.unwrap() - 32_f64.sqrt()).abs() < 1e-12);
        let verdicts: Vec<_> = screened.into_iter().map(|screened| screened.verdict).collect();
        assert_eq!(verdicts[0].as_ref().unwrap().clipped_to, None);
        assert!(matches!(&verdicts[1], Err(RejectReason::NotFinite(tensor)) if tensor.ends_with("lora_A.weight")));
        assert!(matches!(&verdicts[2], Err(RejectReason::LayoutMismatch(text)) if text.contains("found [3, 4]")));
        assert_eq!(verdicts[3], Err(RejectReason::Stale));
    }

    #[test]
    fn distances_are_of_all_values() {
        for len in [1, 15, 16, 17, 33] {
            let layout = Arc::new(AdapterLayout::new([("a".to_owned(), [1, len])]));
            let values = (0..len).map(|value| value as f32).collect();
            let squares: f64 = (0..len).map(|value| (value as f64).powi(2)).sum();
            let found = distance(&Adapter::new(Arc::clone(&layout), values).unwrap(), &Adapter::zeros(layout));
            assert!((found - squares.sqrt()).abs() < 1e-12, "{len}: {found}");
        }
        // The largest differences there are do not overflow.
        let largest = |value| Adapter::new(tiny_layout(), vec![value; 8]).unwrap();
        assert!(distance(&largest(f32::MAX), &largest(f32::MIN)).is_finite());
    }

    #[test]
    fn a_3_each_judgement_meets_its_own_update_also_behind_an_invalid_one() {
        let judgements = vec![Judgement::Clip(0.5), Judgement::Reject("too long".into()), Judgement::Keep];
        let mut updates = vec![update(0, f32::NAN), update(1, 2.0), update(2, 9.0), update(3, 4.0)];
        updates[1].extras =
            Payload::default().with_vector("beside", Adapter::new(tiny_layout(), vec![8_f32.sqrt(); 8]).unwrap());
        let verdicts = verdicts(Ok(judgements), updates);
        assert!(matches!(verdicts[0], Err(RejectReason::NotFinite(_))));
        let clipped = verdicts[1].as_ref().unwrap();
        let global = order(Vec::new()).global;
        assert!((distance(&clipped.adapter, &global) - 0.5).abs() < 1e-6, "{clipped:?}");
        assert_eq!(clipped.clipped_to, Some(0.5));
        // The delta's norm was the square root of 8: what comes beside it is shortened as much.
        let beside = clipped.extras.vector("beside").unwrap();
        assert!(beside.values().iter().all(|value| (value - 0.5).abs() < 1e-6), "{beside:?}");
        assert_eq!(verdicts[2], Err(RejectReason::Screened("too long".into())));
        assert_eq!(verdicts[3].as_ref().unwrap().adapter, update(3, 4.0).adapter);
    }

    #[test]
    fn a_weighed_update_enters_as_it_was_sent() {
        let judgements = vec![Judgement::Weigh(0.25), Judgement::Keep];
        let admitted = verdicts(Ok(judgements), vec![update(0, 2.0), update(1, 2.0)]);
        let found: Vec<_> = admitted.iter().map(|verdict| verdict.as_ref().unwrap().trust).collect();
        assert_eq!(found, [Some(0.25), None]);
        assert_eq!(admitted[0].as_ref().unwrap().adapter, update(0, 2.0).adapter);
    }

    #[test]
    fn a_3_nothing_enters_that_a_screen_has_not_judged() {
        let updates = || vec![update(1, 2.0), update(2, 3.0)];
        for (screen, expected) in [
            (Err(PortError::Failed("no memory".into())), "fixed failed: no memory"),
            (Ok(vec![Judgement::Keep]), "fixed gave 1 judgements for 2 updates"),
            (Ok(vec![Judgement::Clip(f64::NAN); 2]), "found a clip to NaN; allowed: 0 to the delta's norm of"),
            (Ok(vec![Judgement::Clip(1e9); 2]), "found a clip to 1000000000; allowed: 0 to"),
            (Ok(vec![Judgement::Weigh(1.5); 2]), "found a trust of 1.5; allowed: 0 to 1"),
            (Ok(vec![Judgement::Weigh(f64::NAN); 2]), "found a trust of NaN; allowed: 0 to 1"),
        ] {
            for verdict in verdicts(screen, updates()) {
                let Err(RejectReason::ScreenUnavailable(reason)) = verdict else { panic!("{verdict:?}") };
                assert!(reason.starts_with(expected), "{reason}");
            }
        }
    }
}
