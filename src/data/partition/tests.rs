use fedward_actors::protocol::RowLabel;
use proptest::prelude::*;

use super::{dealer::dirichlet, *};

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
    rows_per_client: Some(20),
    harmful: HarmfulShare::Every { share: 0.3 },
    scheme: PartitionScheme::Iid,
    seed: 1,
};

fn distinct(source: &ClientSource) -> usize {
    source.rows.iter().collect::<HashSet<_>>().len()
}

proptest! {
    #[test]
    fn no_row_is_held_twice_while_there_are_enough(
        each in 1_usize..9, spare in 0_usize..50, clients in 1_u32..40, seed: u64, alpha in 0.01_f64..10.0, iid: bool,
    ) {
        let scheme = if iid { PartitionScheme::Iid } else { PartitionScheme::Dirichlet { alpha } };
        let harmful = HarmfulShare::Every { share: 0.0 };
        let plan = ClientPlan { clients, rows_per_client: Some(each), harmful, scheme, seed };
        let n = each * clients as usize + spare;
        let sources = mix(&rows(n, 7), &[], &plan).unwrap();
        prop_assert!(sources.iter().all(|source| source.rows.len() == each));
        let held: HashSet<u32> = sources.iter().flat_map(|source| source.rows.iter().copied()).collect();
        prop_assert_eq!(held.len(), each * clients as usize);
        prop_assert!(held.iter().all(|&row| (row as usize) < n));
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
        shared.ends_with("they hold 140 benign rows, 30 of them different, and 60 harmful rows, 60 of them different")
    );
    assert_eq!(FederatedRows::new(rows(200, 5), harmful(80), &PLAN).unwrap().sharing(), None);
}

#[test]
fn pooled_rows_are_those_of_all_clients() {
    for (benign, harm) in [(200, 80), (30, 7)] {
        let apart = FederatedRows::new(rows(benign, 5), harmful(harm), &PLAN).unwrap();
        let of_all: Vec<_> = (0..10).flat_map(|client| apart.rows(ClientId(client)).unwrap().to_vec()).collect();
        let sharing = apart.sharing();
        let pooled = apart.pooled();
        assert_eq!(*pooled.rows(ClientId(0)).unwrap(), *of_all);
        assert_eq!((pooled.sources().len(), pooled.sources()[0].harmful), (1, 60));
        assert_eq!(pooled.sharing(), sharing);
        assert!(pooled.rows(ClientId(1)).is_err());
    }
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
    for scheme in [PartitionScheme::Iid, PartitionScheme::Dirichlet { alpha: 0.1 }] {
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
            rows_per_client: Some(50),
            harmful: HarmfulShare::Every { share: 0.0 },
            scheme,
            seed: 5,
        };
        let sources = mix(&rows, &[], &plan).unwrap();
        let topics = |source: &ClientSource| source.rows.iter().map(|row| row % 20).collect::<HashSet<_>>().len();
        sources.iter().map(topics).sum::<usize>() as f64 / 40.0
    };
    let (skewed, mild, iid) = (
        topics_per_client(PartitionScheme::Dirichlet { alpha: 0.05 }),
        topics_per_client(PartitionScheme::Dirichlet { alpha: 100.0 }),
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
        assert!((mean - 0.1).abs() < 0.006 && (variance / expected - 1.0).abs() < 0.06, "{alpha}: {mean} {variance}");
    }
    let tiny = dirichlet(1e-4, 10, &mut rng);
    assert!((tiny.iter().sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn ten_thousand_clients_are_cheap_until_they_ask() {
    let plan = ClientPlan {
        clients: 10_000,
        rows_per_client: Some(50),
        scheme: PartitionScheme::Dirichlet { alpha: 0.5 },
        ..PLAN
    };
    let federated = FederatedRows::new(rows(2_000, 19), harmful(130), &plan).unwrap();
    let bytes: usize = federated.sources().iter().map(|source| size_of_val(&*source.rows) + size_of_val(source)).sum();
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
        problem(&ClientPlan { scheme: PartitionScheme::Dirichlet { alpha: 0.0 }, ..PLAN }),
        "alpha: found 0, expected a number above 0, for example 0.5"
    );
    assert_eq!(
        problem(&ClientPlan { harmful: HarmfulShare::Malicious { count: 11, share: 0.5 }, ..PLAN }),
        "malicious clients: found 11, allowed: 0 to 10, the number of clients"
    );
    assert_eq!(
        problem(&ClientPlan { rows_per_client: Some(1_000), ..every(0.05) }),
        "a client is to hold 950 benign rows, but there are only 200; lower rows_per_client, or name a larger source \
         of benign rows"
    );
    assert_eq!(
        problem(&ClientPlan { rows_per_client: Some(100), ..every(0.9) }),
        "a client is to hold 90 harmful rows, but there are only 80; lower rows_per_client or the harmful share, or \
         name a larger source of harmful rows"
    );
}

const HELD: ClientPlan = ClientPlan {
    rows_per_client: None,
    harmful: HarmfulShare::Every { share: 0.0 },
    scheme: PartitionScheme::Value,
    ..PLAN
};

/// Topics of a client's rows among [`rows`], whose topic is their index modulo `topics`.
fn topics_of(source: &ClientSource, topics: u32) -> Vec<u32> {
    let mut found: Vec<u32> = source.rows.iter().map(|row| row % topics).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn values_are_dealt_whole_and_in_turn() {
    let one_each = mix(&rows(47, 5), &[], &ClientPlan { clients: 5, ..HELD }).unwrap();
    let topics: Vec<_> = one_each.iter().map(|source| topics_of(source, 5)).collect();
    assert_eq!(topics, [[0], [1], [2], [3], [4]]);
    assert_eq!(one_each.iter().map(|source| source.rows.len()).collect::<Vec<_>>(), [10, 10, 9, 9, 9]);
    let several = mix(&rows(47, 5), &[], &ClientPlan { clients: 2, ..HELD }).unwrap();
    let topics: Vec<_> = several.iter().map(|source| topics_of(source, 5)).collect();
    assert_eq!(topics, [vec![0, 2, 4], vec![1, 3]]);
    assert_eq!(several.iter().map(|source| source.rows.len()).sum::<usize>(), 47);
}

#[test]
fn clients_with_the_same_value_divide_its_rows() {
    let sources = mix(&rows(40, 3), &[], &ClientPlan { clients: 7, ..HELD }).unwrap();
    assert!(!rows_are_shared(&sources));
    let topics: Vec<_> = sources.iter().map(|source| topics_of(source, 3)).collect();
    assert_eq!(topics, [[0], [1], [2], [0], [1], [2], [0]]);
    // 14 rows for three clients, 13 for two and 13 for two.
    assert_eq!(sources.iter().map(|source| source.rows.len()).collect::<Vec<_>>(), [5, 7, 7, 5, 6, 6, 4]);
    let other = mix(&rows(40, 3), &[], &ClientPlan { clients: 7, seed: 2, ..HELD }).unwrap();
    assert_ne!(sources, other);
}

#[test]
fn harmful_rows_take_the_place_of_a_clients_own() {
    let plan = ClientPlan { clients: 5, harmful: HarmfulShare::Malicious { count: 2, share: 0.5 }, ..HELD };
    let sources = mix(&rows(50, 5), &harmful(20), &plan).unwrap();
    assert!(sources.iter().all(|source| source.rows.len() == 10 && distinct(source) == 10));
    let mut counts: Vec<u32> = sources.iter().map(|source| source.harmful).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 5, 5]);
    let at_most = mix(&rows(50, 5), &harmful(20), &ClientPlan { rows_per_client: Some(4), ..plan }).unwrap();
    assert!(at_most.iter().all(|source| source.rows.len() == 4 && [0, 2].contains(&source.harmful)));
    let more = mix(&rows(50, 5), &harmful(20), &ClientPlan { rows_per_client: Some(400), ..plan }).unwrap();
    assert_eq!(more, sources);
}

#[test]
fn rows_that_are_labelled_unsafe_make_their_client_malicious() {
    let mut rows = rows(20, 2);
    rows[1].label = Some(RowLabel::Unsafe);
    let sources = mix(&rows, &[], &ClientPlan { clients: 2, ..HELD }).unwrap();
    assert_eq!(sources.iter().map(|source| source.harmful).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn clients_without_rows_of_their_own_are_refused() {
    let problem =
        |clients, scheme| mix(&rows(6, 2), &[], &ClientPlan { clients, scheme, ..HELD }).unwrap_err().to_string();
    assert!(
        problem(8, PartitionScheme::Value).starts_with("2 of 8 clients would hold no row: found 6 rows of 2 values")
    );
    assert!(problem(3, PartitionScheme::ClientFiles).starts_with("2 of 3 clients' files have rows left to train on"));
    let unsaid = ClientPlan { scheme: PartitionScheme::Iid, ..HELD };
    assert!(mix(&rows(6, 2), &[], &unsaid).unwrap_err().to_string().starts_with("rows_per_client: found none"));
}
