//! Who holds which rows: the spread of data over clients.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use fedward_actors::{
    ports::{ClientRows, PortError, PortResult},
    protocol::{ChatRow, ClientId, RoundId, hex},
    streams::{Purpose, stream},
};
use rand::{Rng, RngExt, seq::SliceRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DataError;

/// How rows are spread over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PartitionScheme {
    /// Every client draws from all rows alike.
    #[default]
    Iid,
    /// Each client's shares of topics come from a symmetric Dirichlet distribution (Hsu et al., 2019): small `alpha`
    /// gives clients of few topics, large `alpha` approaches [`Self::Iid`].
    Topic {
        /// Concentration, above 0.
        alpha: f64,
    },
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
    /// Rows of each.
    pub rows_per_client: usize,
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
    /// How many of them are harmful.
    pub harmful: u32,
}

impl ClientSource {
    /// Whether the client holds harmful rows.
    pub const fn is_malicious(&self) -> bool {
        self.harmful > 0
    }
}

/// Spreads all rows over clients: each row goes to exactly one client, sizes differ by one at most. With fewer rows than
/// clients, the last clients get none.
///
/// # Errors
///
/// [`DataError::BadSetting`] without clients, or with an `alpha` that is not above 0.
pub fn partition(
    rows: &[ChatRow],
    clients: u32,
    seed: u64,
    scheme: PartitionScheme,
) -> Result<Vec<Vec<u32>>, DataError> {
    check(clients, scheme)?;
    let mut dealer = Dealer::new(rows, scheme, stream(seed, Purpose::Partition, RoundId::START, None));
    let (share, rest) = (rows.len() / clients as usize, rows.len() % clients as usize);
    let deal = |client| {
        let rng = &mut stream(seed, Purpose::Partition, RoundId::START, Some(ClientId(client)));
        dealer.deal(share + usize::from((client as usize) < rest), rng)
    };
    Ok((0..clients).map(deal).collect())
}

/// Decides which benign and which harmful rows each client holds.
///
/// No client holds a row twice. While there are enough rows, no two clients hold the same one; where the plan asks for
/// more rows than there are, every row is handed out before any is handed out again ([`rows_are_shared`]).
///
/// # Errors
///
/// [`DataError::BadSetting`] if the plan cannot be met: it names the setting, what was found and what would do.
pub fn mix(benign: &[ChatRow], harmful: &[ChatRow], plan: &ClientPlan) -> Result<Vec<ClientSource>, DataError> {
    check(plan.clients, plan.scheme)?;
    let harmful_each = harmful_rows_each(plan)?;
    let benign_each = plan.rows_per_client - harmful_each;
    let malicious = malicious_clients(plan);
    let most_benign = if malicious.len() < plan.clients as usize { plan.rows_per_client } else { benign_each };
    enough("benign", most_benign, benign.len(), "rows_per_client")?;
    if !malicious.is_empty() {
        enough("harmful", harmful_each, harmful.len(), "rows_per_client or the harmful share")?;
    }

    let mut rng = stream(plan.seed, Purpose::Partition, RoundId::START, None);
    let mut harmful_dealer = Dealer::new(harmful, PartitionScheme::Iid, rng.clone());
    rng.set_stream(1);
    let mut benign_dealer = Dealer::new(benign, plan.scheme, rng);
    let offset = benign.len() as u32;
    let source = |client| {
        let rng = &mut stream(plan.seed, Purpose::Partition, RoundId::START, Some(ClientId(client)));
        let n_harmful = if malicious.contains(&client) { harmful_each } else { 0 };
        let mut rows = benign_dealer.deal(plan.rows_per_client - n_harmful, rng);
        rows.extend(harmful_dealer.deal(n_harmful, rng).into_iter().map(|index| offset + index));
        rows.shuffle(rng);
        ClientSource { rows: rows.into(), harmful: n_harmful as u32 }
    };
    Ok((0..plan.clients).map(source).collect())
}

/// Whether some row is held by more than one client.
pub fn rows_are_shared(sources: &[ClientSource]) -> bool {
    let mut seen = HashSet::new();
    sources.iter().flat_map(|source| &source.rows).any(|row| !seen.insert(row))
}

fn check(clients: u32, scheme: PartitionScheme) -> Result<(), DataError> {
    match scheme {
        _ if clients == 0 => Err(DataError::BadSetting("clients: found 0, expected at least 1".to_owned())),
        PartitionScheme::Topic { alpha } if !(alpha > 0.0 && alpha.is_finite()) => {
            Err(DataError::BadSetting(format!("alpha: found {alpha}, expected a number above 0, for example 0.5")))
        }
        _ => Ok(()),
    }
}

fn harmful_rows_each(plan: &ClientPlan) -> Result<usize, DataError> {
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
        Ok((share * plan.rows_per_client as f64).round() as usize)
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

/// Deals rows from one shuffled deck a topic; once all decks are empty, all are filled again.
struct Dealer<R> {
    full: Vec<Vec<u32>>,
    left: Vec<Vec<u32>>,
    scheme: PartitionScheme,
    rng: R,
}

impl<R: Rng> Dealer<R> {
    fn new(rows: &[ChatRow], scheme: PartitionScheme, rng: R) -> Self {
        let mut decks: BTreeMap<Option<&str>, Vec<u32>> = BTreeMap::new();
        for (index, row) in (0..).zip(rows) {
            let topic = match scheme {
                PartitionScheme::Iid => None,
                PartitionScheme::Topic { .. } => row.topic.as_deref(),
            };
            decks.entry(topic).or_default().push(index);
        }
        let mut dealer = Self { full: decks.into_values().collect(), left: Vec::new(), scheme, rng };
        dealer.refill();
        dealer
    }

    fn refill(&mut self) {
        self.left.clone_from(&self.full);
        for deck in &mut self.left {
            deck.shuffle(&mut self.rng);
        }
    }

    /// Deals `n` different rows to one client, whose own stream is `rng`. There must be `n` rows in all.
    fn deal(&mut self, n: usize, rng: &mut impl Rng) -> Vec<u32> {
        let shares = match self.scheme {
            PartitionScheme::Iid => vec![1.0; self.full.len()],
            PartitionScheme::Topic { alpha } => dirichlet(alpha, self.full.len(), rng),
        };
        let mut rows = Vec::with_capacity(n);
        let mut held = HashSet::with_capacity(n);
        let mut aside = Vec::new();
        while rows.len() < n {
            let Some(topic) = self.draw_topic(&shares, rng) else {
                self.refill();
                continue;
            };
            match self.left[topic].pop() {
                Some(row) if held.insert(row) => rows.push(row),
                // Dealt to this client before the decks were filled again: the next client may have it.
                Some(row) => aside.push((topic, row)),
                None => {}
            }
        }
        for (topic, row) in aside {
            self.left[topic].push(row);
        }
        rows
    }

    /// Draws a topic that has rows left, by its share; `None` if none has.
    fn draw_topic(&self, shares: &[f64], rng: &mut impl Rng) -> Option<usize> {
        let open: Vec<usize> = (0..self.left.len()).filter(|&topic| !self.left[topic].is_empty()).collect();
        if open.len() < 2 {
            return open.first().copied();
        }
        let total: f64 = open.iter().map(|&topic| shares[topic]).sum();
        if total <= 0.0 {
            return Some(open[rng.random_range(0..open.len())]);
        }
        let mut point = rng.random::<f64>() * total;
        for &topic in &open {
            point -= shares[topic];
            if point < 0.0 {
                return Some(topic);
            }
        }
        open.last().copied()
    }
}

/// A draw from a symmetric Dirichlet distribution of `n` shares, in logarithms: with a small `alpha` most gamma variates
/// are too small for a float.
fn dirichlet(alpha: f64, n: usize, rng: &mut impl Rng) -> Vec<f64> {
    let logs: Vec<f64> = (0..n).map(|_| ln_gamma_variate(alpha, rng)).collect();
    let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logs.iter().map(|log| (log - max).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / sum).collect()
}

/// The logarithm of a gamma variate of shape `alpha` and scale 1 (Marsaglia and Tsang, 2000).
fn ln_gamma_variate(alpha: f64, rng: &mut impl Rng) -> f64 {
    if alpha < 1.0 {
        let uniform = 1.0 - rng.random::<f64>();
        return ln_gamma_variate(alpha + 1.0, rng) + uniform.ln() / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let normal = normal_variate(rng);
        let v = (1.0 + c * normal).powi(3);
        let uniform = 1.0 - rng.random::<f64>();
        if v > 0.0 && uniform.ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

/// A standard normal variate (Box and Muller, 1958).
fn normal_variate(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
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

#[cfg(test)]
mod tests {
    use fedward_actors::protocol::RowLabel;
    use proptest::prelude::*;

    use super::*;

    fn rows(n: usize, topics: usize) -> Vec<ChatRow> {
        let row = |i: usize| {
            let mut row = ChatRow::single_turn(format!("prompt {i}"), "response");
            row.topic = Some(format!("topic {}", i % topics));
            row.label = Some(RowLabel::Safe);
            row
        };
        (0..n).map(row).collect()
    }

    fn harmful(n: usize) -> Vec<ChatRow> {
        let row = |i| ChatRow { label: Some(RowLabel::Unsafe), ..ChatRow::single_turn(format!("harm {i}"), "") };
        (0..n).map(row).collect()
    }

    const PLAN: ClientPlan = ClientPlan {
        clients: 10,
        rows_per_client: 20,
        harmful: HarmfulShare::Every { share: 0.3 },
        scheme: PartitionScheme::Iid,
        seed: 1,
    };

    fn distinct(source: &ClientSource) -> usize {
        source.rows.iter().collect::<HashSet<_>>().len()
    }

    proptest! {
        #[test]
        fn every_row_goes_to_one_client(n in 0_usize..300, clients in 1_u32..40, seed: u64, alpha in 0.01_f64..10.0, iid: bool) {
            let scheme = if iid { PartitionScheme::Iid } else { PartitionScheme::Topic { alpha } };
            let parts = partition(&rows(n, 7), clients, seed, scheme).unwrap();
            let mut all: Vec<u32> = parts.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n as u32).collect::<Vec<_>>());
            let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn every_client_holds_its_share() {
        let sources = mix(&rows(200, 5), &harmful(80), &PLAN).unwrap();
        assert!(sources.iter().all(|source| source.harmful == 6 && source.rows.len() == 20 && distinct(source) == 20));
        assert!(sources.iter().all(|source| source.rows.iter().filter(|&&row| row >= 200).count() == 6));
        assert!(!rows_are_shared(&sources));
        assert_eq!(sources, mix(&rows(200, 5), &harmful(80), &PLAN).unwrap());
        assert_ne!(sources, mix(&rows(200, 5), &harmful(80), &ClientPlan { seed: 2, ..PLAN }).unwrap());
    }

    #[test]
    fn rows_that_clients_share_are_counted_in_words() {
        let shared = FederatedRows::new(rows(30, 5), harmful(60), &PLAN).unwrap().sharing().unwrap();
        assert!(
            shared.ends_with(
                "they hold 140 benign rows, 30 of them different, and 60 harmful rows, 60 of them different"
            )
        );
        assert_eq!(FederatedRows::new(rows(200, 5), harmful(80), &PLAN).unwrap().sharing(), None);
    }

    #[test]
    fn only_malicious_clients_hold_harm() {
        let plan = ClientPlan { harmful: HarmfulShare::Malicious { count: 3, share: 1.0 }, ..PLAN };
        let sources = mix(&rows(200, 5), &harmful(60), &plan).unwrap();
        let mut counts: Vec<u32> = sources.iter().map(|source| source.harmful).collect();
        assert_eq!(sources.iter().filter(|source| source.is_malicious()).count(), 3);
        counts.sort_unstable();
        assert_eq!(counts, [0, 0, 0, 0, 0, 0, 0, 20, 20, 20]);
        let none = ClientPlan { harmful: HarmfulShare::Malicious { count: 0, share: 1.0 }, ..PLAN };
        assert!(mix(&rows(200, 5), &[], &none).unwrap().iter().all(|source| source.harmful == 0));
    }

    #[test]
    fn scarce_rows_are_dealt_evenly_and_never_twice_to_one_client() {
        for scheme in [PartitionScheme::Iid, PartitionScheme::Topic { alpha: 0.1 }] {
            let sources = mix(&rows(30, 5), &harmful(7), &ClientPlan { scheme, ..PLAN }).unwrap();
            assert!(rows_are_shared(&sources));
            assert!(sources.iter().all(|source| distinct(source) == 20), "{scheme:?}");
            let mut uses = vec![0; 37];
            for &row in sources.iter().flat_map(|source| &source.rows) {
                uses[row as usize] += 1;
            }
            // 10 × 14 draws from 30 rows, 10 × 6 from 7.
            assert!(uses[..30].iter().all(|&n| (3..=6).contains(&n)), "{scheme:?}: {uses:?}");
            assert!(uses[30..].iter().all(|&n| (7..=10).contains(&n)), "{scheme:?}: {uses:?}");
        }
    }

    #[test]
    fn alpha_decides_how_many_topics_a_client_has() {
        let rows = rows(4_000, 20);
        let topics_per_client = |scheme| {
            let plan = ClientPlan {
                clients: 40,
                rows_per_client: 50,
                harmful: HarmfulShare::Every { share: 0.0 },
                scheme,
                seed: 5,
            };
            let sources = mix(&rows, &[], &plan).unwrap();
            let topics = |source: &ClientSource| source.rows.iter().map(|row| row % 20).collect::<HashSet<_>>().len();
            sources.iter().map(topics).sum::<usize>() as f64 / 40.0
        };
        let (skewed, mild, iid) = (
            topics_per_client(PartitionScheme::Topic { alpha: 0.05 }),
            topics_per_client(PartitionScheme::Topic { alpha: 100.0 }),
            topics_per_client(PartitionScheme::Iid),
        );
        assert!(skewed < 6.0 && mild > 16.0 && (mild - iid).abs() < 1.5, "{skewed} {mild} {iid}");
    }

    /// Mean 1/n and variance (1/n)(1 − 1/n)/(nα + 1) of a share: 0.1 and 0.09/(10α + 1).
    #[test]
    fn shares_are_dirichlet() {
        let mut rng = stream(1, Purpose::Partition, RoundId::START, None);
        for alpha in [0.05, 0.5, 3.0] {
            let shares: Vec<f64> = (0..20_000).map(|_| dirichlet(alpha, 10, &mut rng)[3]).collect();
            let mean = shares.iter().sum::<f64>() / 20_000.0;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 20_000.0;
            let expected = 0.09 / (10.0 * alpha + 1.0);
            assert!(
                (mean - 0.1).abs() < 0.006 && (variance / expected - 1.0).abs() < 0.06,
                "{alpha}: {mean} {variance}"
            );
        }
        let tiny = dirichlet(1e-4, 10, &mut rng);
        assert!((tiny.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn ten_thousand_clients_are_cheap_until_they_ask() {
        let plan =
            ClientPlan { clients: 10_000, rows_per_client: 50, scheme: PartitionScheme::Topic { alpha: 0.5 }, ..PLAN };
        let federated = FederatedRows::new(rows(2_000, 19), harmful(130), &plan).unwrap();
        let bytes: usize =
            federated.sources().iter().map(|source| size_of_val(&*source.rows) + size_of_val(source)).sum();
        assert!(bytes < 3_000_000, "{bytes} bytes");
        let held = federated.rows(ClientId(9_999)).unwrap();
        let n_harmful = held.iter().filter(|row| row.label == Some(RowLabel::Unsafe)).count();
        assert_eq!((held.len(), n_harmful), (50, 15));
        assert_eq!(
            federated.rows(ClientId(10_000)).unwrap_err().to_string(),
            "client-10000 holds no rows: there are 10000 clients"
        );
    }

    #[test]
    fn plans_that_cannot_be_met_are_refused() {
        let problem = |plan: &ClientPlan| mix(&rows(200, 5), &harmful(80), plan).unwrap_err().to_string();
        let every = |share| ClientPlan { harmful: HarmfulShare::Every { share }, ..PLAN };
        assert_eq!(problem(&ClientPlan { clients: 0, ..PLAN }), "clients: found 0, expected at least 1");
        assert_eq!(problem(&every(1.5)), "harmful share: found 1.5, allowed: 0 to 1");
        assert_eq!(problem(&every(f64::NAN)), "harmful share: found NaN, allowed: 0 to 1");
        assert_eq!(
            problem(&ClientPlan { scheme: PartitionScheme::Topic { alpha: 0.0 }, ..PLAN }),
            "alpha: found 0, expected a number above 0, for example 0.5"
        );
        assert_eq!(
            problem(&ClientPlan { harmful: HarmfulShare::Malicious { count: 11, share: 0.5 }, ..PLAN }),
            "malicious clients: found 11, allowed: 0 to 10, the number of clients"
        );
        assert_eq!(
            problem(&ClientPlan { rows_per_client: 1_000, ..every(0.05) }),
            "a client is to hold 950 benign rows, but there are only 200; lower rows_per_client, or name a larger source \
             of benign rows"
        );
        assert_eq!(
            problem(&ClientPlan { rows_per_client: 100, ..every(0.9) }),
            "a client is to hold 90 harmful rows, but there are only 80; lower rows_per_client or the harmful share, or \
             name a larger source of harmful rows"
        );
    }
}
