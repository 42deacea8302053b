//! Malicious clients: what they send is theirs, and nobody else's.

use std::sync::Arc;

use super::{dropped, outcomes};
use crate::{
    cancel::CancelFlag,
    ports::{Adversary, ClientUpdate, PortError, PortResult},
    protocol::{Adapter, ClientId, RoundId},
    records::{ClientOutcome, ClientRole, DropReason},
    testing::{Conduct, Rehearsal},
};

/// What the fake adversary does.
#[derive(Clone, Copy)]
enum Act {
    /// Flips the sign of each malicious client's delta.
    Flips,
    /// Speaks for client 0, which is honest.
    Overreaches,
    Fails,
    Panics,
}

/// Clients 4 and above are malicious.
struct Opposition(Act);

impl Adversary for Opposition {
    fn role(&self, client: ClientId) -> ClientRole {
        if client.0 >= 4 { ClientRole::Malicious } else { ClientRole::Honest }
    }

    fn forge(
        &self,
        _: RoundId,
        global: &Adapter,
        updates: &[ClientUpdate],
        _: &CancelFlag,
    ) -> PortResult<Vec<(ClientId, Adapter)>> {
        let flipped = |update: &ClientUpdate| {
            let values =
                global.values().iter().zip(update.adapter.values()).map(|(global, local)| 2.0 * global - local);
            (update.client, Adapter::new(Arc::clone(global.layout()), values.collect()).unwrap())
        };
        match self.0 {
            Act::Flips => {
                let own = updates.iter().filter(|update| self.role(update.client) == ClientRole::Malicious);
                Ok(own.map(flipped).collect())
            }
            Act::Overreaches => Ok(updates.iter().map(flipped).collect()),
            Act::Fails => Err(PortError::Failed("no plan".to_owned())),
            Act::Panics => std::panic::resume_unwind(Box::new("rehearsed panic")),
        }
    }
}

fn rehearsal(act: Act) -> Rehearsal {
    let mut rehearsal = Rehearsal::new(6, 6, 2);
    rehearsal.adversary = Some(Arc::new(Opposition(act)));
    rehearsal
}

#[tokio::test(start_paused = true)]
async fn what_malicious_clients_send_enters_in_their_place_and_their_role_is_in_the_records() {
    let attacked = rehearsal(Act::Flips);
    let mut peaceful = rehearsal(Act::Flips);
    peaceful.adversary = None;
    assert_ne!(attacked.run().await.unwrap().global, peaceful.run().await.unwrap().global);
    let (attacked, peaceful) = (attacked.store.stored(), peaceful.store.stored());
    for (attacked, peaceful) in attacked.clients.iter().zip(&peaceful.clients).take(6) {
        let is_malicious = attacked.client.0 >= 4;
        assert_eq!(attacked.role == ClientRole::Malicious, is_malicious);
        assert_eq!(peaceful.role, ClientRole::Honest);
        // A flipped delta is as long as the one that was trained.
        let (forged, trained) = (attacked.update_norm.unwrap(), peaceful.update_norm.unwrap());
        assert!((forged - trained).abs() < 1e-6, "{forged} {trained}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attack_that_fails_or_overreaches_leaves_malicious_clients_without_a_word() {
    for (act, reason) in
        [(Act::Fails, "no plan"), (Act::Overreaches, "it forged an update of client-0, which is honest")]
    {
        let rehearsal = rehearsal(act);
        rehearsal.run().await.unwrap();
        for (client, outcome) in outcomes(&rehearsal.store.stored().clients) {
            let expected = match client {
                0..4 => ClientOutcome::Accepted,
                _ => dropped(DropReason::AttackFailed(reason.to_owned())),
            };
            assert_eq!(outcome, expected, "client {client}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_adversary_that_panics_is_a_bug_that_ends_the_run() {
    let error = rehearsal(Act::Panics).run().await.unwrap_err();
    assert_eq!(error.to_string(), "the adversary panicked: rehearsed panic; this is a bug");
}

/// An attack needs no client of its own among those that report.
#[tokio::test(start_paused = true)]
async fn nobody_acts_where_no_malicious_client_has_trained() {
    let rehearsal = rehearsal(Act::Panics)
        .with_trainer(|client, _, _| if client.0 >= 4 { Conduct::Fails } else { Conduct::Honest });
    rehearsal.run().await.unwrap();
}
