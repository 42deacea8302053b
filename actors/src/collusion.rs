//! Between gather and screen: malicious clients, who see what they may see, put what they send in the place of what they
//! trained.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    compute::{Compute, Panicked},
    ledger::Reported,
    ports::{Adversary, PortError, PortResult},
    protocol::{Adapter, ClientId, ClientRanks, ClientUpdate, LocalTraining, LocalWork, RoundId},
    records::{ClientRole, DropReason},
    screening::check as check_update,
};

/// Lets the adversary act on a round's reports. Where it fails, malicious clients send nothing: they must not count as
/// honest ones without a word.
pub(crate) async fn collude(
    adversary: &Arc<dyn Adversary>,
    compute: &Compute,
    limit: Duration,
    round: RoundId,
    (global, ranks): (&Adapter, Option<&ClientRanks>),
    reports: &mut [Reported],
) -> Result<(), Panicked> {
    let mut updates: Vec<ClientUpdate> = reports.iter().filter_map(update_of).collect();
    if !updates.iter().any(|update| is_malicious(adversary, update.client)) {
        return Ok(());
    }
    let (acting, global, ranks) = (Arc::clone(adversary), global.clone(), ranks.cloned());
    let work = move |cancel: &_| {
        // An attacker computes with what would pass as an update.
        updates.retain(|update| check_update(&global, &update.adapter).is_ok());
        let mut forged = acting.forge(round, &global, &updates, cancel)?;
        if let Some(ranks) = &ranks {
            // Nobody can send more ranks than it has.
            for (client, adapter) in &mut forged {
                *adapter = global.with_leading_of(adapter, ranks.of(*client));
            }
        }
        Ok(forged)
    };
    let forged = compute.run_within(limit, work).await?.unwrap_or_else(|overdue| Err(overdue.into()));
    let mut forged = check(adversary, forged);
    for reported in reports.iter_mut().filter(|reported| is_malicious(adversary, reported.client)) {
        replace(reported, &mut forged);
    }
    Ok(())
}

fn is_malicious(adversary: &Arc<dyn Adversary>, client: ClientId) -> bool {
    adversary.role(client) == ClientRole::Malicious
}

/// The update of a client that trained.
fn update_of(reported: &Reported) -> Option<ClientUpdate> {
    if reported.misfit.is_some() {
        return None;
    }
    let LocalWork::Trained { training, end } = &reported.answer.as_ref().ok()?.work else { return None };
    let LocalTraining { adapter, n_examples, .. } = training;
    let (client, adapter, n_examples) = (reported.client, adapter.clone(), *n_examples);
    Some(ClientUpdate { client, adapter, n_examples, trust: 1.0, extras: end.extras.clone() })
}

/// By client, or in words why there is nothing: an adversary that would speak for an honest client has failed.
fn check(
    adversary: &Arc<dyn Adversary>,
    forged: PortResult<Vec<(ClientId, Adapter)>>,
) -> Result<BTreeMap<ClientId, Adapter>, PortError> {
    let forged = forged?;
    match forged.iter().find(|(client, _)| !is_malicious(adversary, *client)) {
        None => Ok(forged.into_iter().collect()),
        Some((client, _)) => Err(PortError::Failed(format!("it forged an update of {client}, which is honest"))),
    }
}

fn replace(reported: &mut Reported, forged: &mut Result<BTreeMap<ClientId, Adapter>, PortError>) {
    let client = reported.client;
    let Ok(report) = &mut reported.answer else { return };
    let LocalWork::Trained { training, .. } = &mut report.work else { return };
    match forged {
        Ok(forged) => {
            if let Some(adapter) = forged.remove(&client) {
                training.adapter = adapter;
            }
        }
        Err(error) => report.work = LocalWork::Dropped(DropReason::AttackFailed(error.to_string())),
    }
}
