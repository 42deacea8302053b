//! Clients of different ranks, and models with frozen terms (A-1, C-1).

use std::sync::Arc;

use crate::{
    cancel::CancelFlag,
    federation::StartState,
    ports::{Adversary, ClientUpdate, PortError, PortResult, Strategy},
    protocol::{Adapter, ClientId, ClientRanks, GlobalModel, RoundId},
    records::{ClientOutcome, ClientRole, RejectReason},
    testing::{Conduct, MemoryStore, Rehearsal, layout_of_rank},
};

/// Takes the first client's adapter, and leaves a frozen term a round.
struct Freezes;

impl Strategy for Freezes {
    fn name(&self) -> &'static str {
        "freezes"
    }

    fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        let next = global.with_trainable(updates[0].adapter.clone());
        Ok(next.with_frozen(global.trainable().clone()))
    }
}

/// Clients 0 and 2 train two of three ranks, client 1 one: whatever they did not train is the global adapter's.
#[tokio::test]
async fn a_1_clients_train_the_ranks_that_they_were_sent_and_bytes_are_counted_at_their_size() {
    let mut rehearsal = Rehearsal::new(3, 3, 2);
    rehearsal.layout = layout_of_rank(3);
    rehearsal.config.ranks = ClientRanks::new(vec![2, 1]);
    rehearsal.strategy = Arc::new(|| Box::new(Freezes));
    let values: Vec<f32> = (0..24).map(|value| value as f32).collect();
    let start = Adapter::new(layout_of_rank(3), values).unwrap();
    let result = rehearsal.run_from(StartState::new(start.clone())).await.unwrap();
    let stored = rehearsal.store.stored();
    // 32 bytes a rank: two, one and two ranks, and from the second round on a frozen term of three.
    let bytes: Vec<_> = stored.rounds.iter().map(|row| (row.adapter_bytes_up, row.adapter_bytes_down)).collect();
    assert_eq!(bytes, [(5 * 32, 5 * 32), (5 * 32, 5 * 32 + 3 * 96)]);
    assert_eq!(stored.rounds[0].accepted, 3);
    let first = stored.checkpoints[0].global.trainable();
    assert_ne!(first.truncated(2), start.truncated(2));
    // Row 2 of A, column 2 of each row of B.
    let third = |adapter: &Adapter| [8, 9, 10, 11, 14, 17, 20, 23].map(|index| adapter.values()[index].to_bits());
    assert_eq!(third(first), third(&start));
    assert_eq!(result.global.frozen().len(), 2);
    let resumed = Rehearsal { store: MemoryStore::default(), ..rehearsal.clone() };
    assert_eq!(resumed.run_from(stored.checkpoints[0].clone()).await.unwrap().global, result.global);
}

#[tokio::test]
async fn a_1_a_whole_adapter_of_a_client_that_was_sent_less_is_refused() {
    let mut rehearsal = Rehearsal::new(2, 2, 1).with_trainer(|client, _, _| match client.0 {
        0 => Conduct::Honest,
        // Rank 2, the global adapter's own.
        _ => Conduct::WrongShape,
    });
    rehearsal.layout = layout_of_rank(2);
    rehearsal.config.ranks = ClientRanks::new(vec![1]);
    rehearsal.run().await.unwrap();
    let outcomes: Vec<_> = rehearsal.store.stored().clients.into_iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes[0], ClientOutcome::Accepted);
    let ClientOutcome::Rejected(RejectReason::LayoutMismatch(text)) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert!(text.contains("expected shape [1, 4], found [2, 4]"), "{text}");
}

/// Sends ones in every rank.
struct Everywhere;

impl Adversary for Everywhere {
    fn role(&self, client: ClientId) -> ClientRole {
        if client.0 == 1 { ClientRole::Malicious } else { ClientRole::Honest }
    }

    fn forge(
        &self,
        _: RoundId,
        global: &Adapter,
        _: &[ClientUpdate],
        _: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>> {
        let ones = Adapter::new(Arc::clone(global.layout()), vec![1.0; global.values().len()]);
        Ok(vec![(ClientId(1), ones.map_err(|error| PortError::Failed(error.to_string()))?)])
    }
}

/// Keeps what client 1 sends.
struct TakesSecond;

impl Strategy for TakesSecond {
    fn name(&self) -> &'static str {
        "takes second"
    }

    fn aggregate(&mut self, _: RoundId, global: &GlobalModel, updates: &[ClientUpdate]) -> PortResult<GlobalModel> {
        Ok(global.with_trainable(updates[1].adapter.clone()))
    }
}

#[tokio::test]
async fn an_attacker_sends_no_more_ranks_than_it_has() {
    let mut rehearsal = Rehearsal::new(2, 2, 1);
    rehearsal.layout = layout_of_rank(2);
    rehearsal.config.ranks = ClientRanks::new(vec![2, 1]);
    rehearsal.adversary = Some(Arc::new(Everywhere));
    rehearsal.strategy = Arc::new(|| Box::new(TakesSecond));
    let found = rehearsal.run().await.unwrap().global;
    // The first row of A and the first column of B; the rest is the global adapter's, zero.
    let expected = [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0].map(|value: u8| f32::from(value));
    assert_eq!(found.trainable().values(), expected);
}
