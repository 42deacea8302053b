//! Who holds which rows: the spread of data over clients.

mod dealer;
mod holders;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, mem, sync::Arc};

use fedward_actors::{
    ports::{ClientRows, PortError, PortResult},
    protocol::{ChatRow, ClientId, RoundId, RowLabel, hex},
    streams::{Purpose, stream},
};
use rand::{Rng, seq::SliceRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::{dealer::Dealer, holders::hold};
use super::DataError;

/// How rows are spread over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PartitionScheme {
    /// Every client draws from all rows alike.
    #[default]
    Iid,
    /// Each client's shares of topics ([`ChatRow::topic`]) come from a symmetric Dirichlet distribution (Hsu et al., 2019): small
    /// `alpha` gives clients of few topics, large `alpha` approaches [`Self::Iid`].
    Dirichlet {
        /// Concentration, above 0.
        alpha: f64,
    },
    /// Topics are dealt whole: the clients take them in turn, in alphabetical order. Where there are fewer topics than clients, those
    /// that have the same topic divide its rows.
    Value,
    /// Each client holds the rows of one topic, in alphabetical order: there are as many topics as clients.
    ClientFiles,
}

impl PartitionScheme {
    /// Returns whether rows belong to clients from the beginning, instead of being dealt until each has enough.
    const fn is_held(self) -> bool {
        matches!(self, Self::Value | Self::ClientFiles)
    }
}

/// Which clients hold harmful rows, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "clients", rename_all = "snake_case")]
pub enum HarmfulShare {
    /// Every client holds this share of harmful rows (the paper: about 0.3).
    Every {
        /// From 0 to 1.
        share: f64,
    },
    /// Only so many clients, drawn by the seed, hold this share.
    Malicious {
        /// How many clients.
        count: u32,
        /// From 0 to 1.
        share: f64,
    },
}

/// What every client is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientPlan {
    /// How many clients.
    pub clients: u32,
    /// Rows of each. Where rows belong to clients, at most so many; all of them if `None`.
    pub rows_per_client: Option<usize>,
    /// Harmful rows among them.
    pub harmful: HarmfulShare,
    /// How benign rows are spread. Harmful rows are always spread alike.
    pub scheme: PartitionScheme,
    /// Decides all draws.
    pub seed: u64,
}

/// One client's rows, as indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSource {
    /// Indices into the benign rows followed by the harmful rows, in an order drawn by the seed.
    pub rows: Box<[u32]>,
    /// How many of them are harmful: drawn from the harmful rows, or labelled so among the benign ones.
    pub harmful: u32,
}

impl ClientSource {
    /// Whether the client holds harmful rows.
    pub const fn is_malicious(&self) -> bool {
        self.harmful > 0
    }
}

/// Decides which benign and which harmful rows each client holds.
///
/// No client holds a row twice. While there are enough rows, no two clients hold the same one; where the plan asks for
/// more rows than there are, every row is handed out before any is handed out again ([`rows_are_shared`]). Where rows belong to
/// clients, harmful rows take the place of some that the client would hold otherwise.
///
/// # Errors
///
/// [`DataError::BadSetting`] if the plan cannot be met: it names the setting, what was found and what would do.
pub fn mix(benign: &[ChatRow], harmful: &[ChatRow], plan: &ClientPlan) -> Result<Vec<ClientSource>, DataError> {
    check(plan)?;
    let share = harmful_share(plan)?;
    let malicious = malicious_clients(plan);
    let mut rng = stream(plan.seed, Purpose::Partition, RoundId::START, None);
    let mut harmful_dealer = Dealer::new(harmful, PartitionScheme::Iid, rng.clone());
    rng.set_stream(1);
    let mut benign_hands = Hands::new(benign, plan, rng)?;
    let counts = |client: u32| {
        let n = benign_hands.rows_of(client);
        let n_harmful = if malicious.contains(&client) { (share * n as f64).round() as usize } else { 0 };
        (n - n_harmful, n_harmful)
    };
    let counts: Vec<_> = (0..plan.clients).map(counts).collect();
    let most = |of: &dyn Fn(&(usize, usize)) -> usize| counts.iter().map(of).max().unwrap_or_default();
    if let Hands::Dealt { .. } = benign_hands {
        enough("benign", most(&|(n_benign, _)| *n_benign), benign.len(), "rows_per_client")?;
    }
    enough("harmful", most(&|(_, n_harmful)| *n_harmful), harmful.len(), "rows_per_client or the harmful share")?;

    let offset = benign.len() as u32;
    let source = |(client, &(n_benign, n_harmful)): (u32, &(usize, usize))| {
        let rng = &mut stream(plan.seed, Purpose::Partition, RoundId::START, Some(ClientId(client)));
        let mut rows = benign_hands.take(client, n_benign, rng);
        let labelled = rows.iter().filter(|&&row| benign[row as usize].label == Some(RowLabel::Unsafe)).count();
        rows.extend(harmful_dealer.deal(n_harmful, rng).into_iter().map(|index| offset + index));
        rows.shuffle(rng);
        ClientSource { rows: rows.into(), harmful: (labelled + n_harmful) as u32 }
    };
    Ok((0..).zip(&counts).map(source).collect())
}

/// Where the benign rows of clients come from.
enum Hands<R> {
    /// All clients' deck.
    Dealt { dealer: Dealer<R>, each: usize },
    /// What each client holds by itself, and the most of it that it gets.
    Held { rows: Vec<Vec<u32>>, most: usize },
}

impl<R: Rng> Hands<R> {
    fn new(benign: &[ChatRow], plan: &ClientPlan, mut rng: R) -> Result<Self, DataError> {
        if plan.scheme.is_held() {
            let rows = hold(benign, plan.scheme, plan.clients, &mut rng)?;
            return Ok(Self::Held { rows, most: plan.rows_per_client.unwrap_or(usize::MAX) });
        }
        let each = plan.rows_per_client.ok_or_else(|| {
            DataError::BadSetting("rows_per_client: found none, expected how many rows each client is dealt".to_owned())
        })?;
        Ok(Self::Dealt { dealer: Dealer::new(benign, plan.scheme, rng), each })
    }

    /// Returns how many rows a client is to have in all.
    fn rows_of(&self, client: u32) -> usize {
        match self {
            Self::Dealt { each, .. } => *each,
            Self::Held { rows, most } => rows[client as usize].len().min(*most),
        }
    }

    /// Takes `n` rows for a client, whose own stream is `rng`.
    fn take(&mut self, client: u32, n: usize, rng: &mut impl Rng) -> Vec<u32> {
        match self {
            Self::Dealt { dealer, .. } => dealer.deal(n, rng),
            Self::Held { rows, .. } => {
                let mut held = mem::take(&mut rows[client as usize]);
                held.shuffle(rng);
                held.truncate(n);
                held
            }
        }
    }
}

/// Whether some row is held by more than one client.
pub fn rows_are_shared(sources: &[ClientSource]) -> bool {
    let mut seen = HashSet::new();
    sources.iter().flat_map(|source| &source.rows).any(|row| !seen.insert(row))
}

fn check(plan: &ClientPlan) -> Result<(), DataError> {
    match plan.scheme {
        _ if plan.clients == 0 => Err(DataError::BadSetting("clients: found 0, expected at least 1".to_owned())),
        PartitionScheme::Dirichlet { alpha } if !(alpha > 0.0 && alpha.is_finite()) => {
            Err(DataError::BadSetting(format!("alpha: found {alpha}, expected a number above 0, for example 0.5")))
        }
        _ => Ok(()),
    }
}

/// The share of harmful rows of a client that holds any.
fn harmful_share(plan: &ClientPlan) -> Result<f64, DataError> {
    let share = match plan.harmful {
        HarmfulShare::Every { share } => share,
        HarmfulShare::Malicious { count, share } if count <= plan.clients => share,
        HarmfulShare::Malicious { count, .. } => {
            let problem =
                format!("malicious clients: found {count}, allowed: 0 to {}, the number of clients", plan.clients);
            return Err(DataError::BadSetting(problem));
        }
    };
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(DataError::BadSetting(format!("harmful share: found {share}, allowed: 0 to 1")))
    }
}

fn enough(kind: &str, needed: usize, found: usize, lower: &str) -> Result<(), DataError> {
    if needed <= found {
        return Ok(());
    }
    let problem = format!(
        "a client is to hold {needed} {kind} rows, but there are only {found}; lower {lower}, or name a larger source of \
         {kind} rows"
    );
    Err(DataError::BadSetting(problem))
}

/// The clients that hold harmful rows.
fn malicious_clients(plan: &ClientPlan) -> HashSet<u32> {
    let count = match plan.harmful {
        HarmfulShare::Every { .. } => return (0..plan.clients).collect(),
        HarmfulShare::Malicious { count, .. } => count as usize,
    };
    let mut rng = stream(plan.seed, Purpose::Partition, RoundId::START, None);
    rng.set_stream(2);
    let mut clients: Vec<u32> = (0..plan.clients).collect();
    clients.shuffle(&mut rng);
    clients.truncate(count);
    clients.into_iter().collect()
}

/// All clients' rows, put together only when a client asks for them: an idle client costs four bytes a row.
#[derive(Clone, Debug)]
pub struct FederatedRows {
    benign: Arc<[ChatRow]>,
    harmful: Arc<[ChatRow]>,
    sources: Arc<[ClientSource]>,
}

impl FederatedRows {
    /// Spreads rows over clients.
    ///
    /// # Errors
    ///
    /// As [`mix`].
    pub fn new(benign: Vec<ChatRow>, harmful: Vec<ChatRow>, plan: &ClientPlan) -> Result<Self, DataError> {
        let sources = mix(&benign, &harmful, plan)?.into();
        Ok(Self { benign: benign.into(), harmful: harmful.into(), sources })
    }

    /// Returns the rows of all clients as one client's, in order of client; a row that several hold is there as often.
    #[must_use]
    pub fn pooled(self) -> Self {
        let rows = self.sources.iter().flat_map(|source| &source.rows).copied().collect();
        let harmful = self.sources.iter().map(|source| source.harmful).sum();
        Self { sources: [ClientSource { rows, harmful }].into(), ..self }
    }

    /// Returns whether a client holds harmful rows.
    pub fn holds_harm(&self, client: u32) -> bool {
        self.sources.get(client as usize).is_some_and(ClientSource::is_malicious)
    }

    /// SHA-256 of what every client holds, in order of client.
    pub fn sha256(&self) -> String {
        let digests: Vec<_> = self.benign.iter().chain(self.harmful.iter()).map(ChatRow::digest).collect();
        let mut hash = Sha256::new();
        for source in self.sources.iter() {
            hash.update((source.rows.len() as u64).to_le_bytes());
            for &row in &source.rows {
                hash.update(digests[row as usize].0);
            }
        }
        hex(&hash.finalize())
    }

    /// In words, how many rows are held by more than one client; `None` where none is.
    pub fn sharing(&self) -> Option<String> {
        if !rows_are_shared(&self.sources) {
            return None;
        }
        let part = |kind: &str, is_part: &dyn Fn(usize) -> bool| {
            let held: Vec<u32> = self
                .sources
                .iter()
                .flat_map(|source| &source.rows)
                .copied()
                .filter(|&row| is_part(row as usize))
                .collect();
            let distinct = held.iter().collect::<HashSet<_>>().len();
            format!("{} {kind} rows, {distinct} of them different", held.len())
        };
        let benign = part("benign", &|row| row < self.benign.len());
        let harmful = part("harmful", &|row| row >= self.benign.len());
        Some(format!("clients share rows, for there are too few: they hold {benign}, and {harmful}"))
    }

    /// Who holds what.
    pub fn sources(&self) -> &[ClientSource] {
        &self.sources
    }
}

impl ClientRows for FederatedRows {
    fn rows(&self, client: ClientId) -> PortResult<Arc<[ChatRow]>> {
        let source = self.sources.get(client.0 as usize).ok_or_else(|| {
            PortError::Failed(format!("{client} holds no rows: there are {} clients", self.sources.len()))
        })?;
        let row = |&index: &u32| match (index as usize).checked_sub(self.benign.len()) {
            None => self.benign[index as usize].clone(),
            Some(index) => self.harmful[index].clone(),
        };
        Ok(source.rows.iter().map(row).collect())
    }
}
