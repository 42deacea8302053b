//! Means of products against `numpy.linalg.svd` of the whole matrix: `tests/reference/robust_aggregation.py`.

use fedward_aggregation::factors::{Factors, Product, fed_svd, flex_lora};
use serde_json::Value;

const SHAPE: [usize; 2] = [7, 5];

fn unit(stream: u64, i: u64, j: u64) -> f64 {
    let z = ((stream << 48) ^ (i << 32) ^ j).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn matrix(stream: u64, rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|at| unit(stream, (at / columns) as u64, (at % columns) as u64) as f32).collect()
}

fn assert_near(product: &Product, name: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/fixtures/robust_aggregation.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    for (part, found) in [("b", wide(&product.b)), ("a", wide(&product.a)), ("left_out", product.left_out.clone())] {
        let expected: Vec<f64> = serde_json::from_value(fixture["lora"][name][part].clone()).unwrap();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() < 1e-6, "{name} {part}[{index}]: {found}, not {expected}");
        }
        assert!(part == "left_out" || found.len() == expected.len(), "{name} {part}");
    }
}

#[test]
fn flex_lora_follows_numpy_also_with_ranks_that_differ() {
    let ranks = [2, 3, 1];
    let factors: Vec<_> = (0..3)
        .map(|k| (matrix(40 + k, SHAPE[0], ranks[k as usize]), matrix(50 + k, ranks[k as usize], SHAPE[1])))
        .collect();
    let clients: Vec<_> =
        factors.iter().zip([1.0, 2.0, 4.0]).map(|((b, a), weight)| Factors { b, a, weight }).collect();
    assert_near(&flex_lora(&clients, SHAPE, 2).unwrap(), "flexlora");
}

#[test]
fn fed_svd_follows_numpy_and_loses_nothing() {
    let (a, b): (_, Vec<_>) = (matrix(70, 2, SHAPE[1]), (0..3).map(|k| matrix(60 + k, SHAPE[0], 2)).collect());
    let clients: Vec<_> = b.iter().zip([1.0, 2.0, 4.0]).map(|(b, weight)| Factors { b, a: &a, weight }).collect();
    let product = fed_svd(&clients, SHAPE, 2).unwrap();
    assert_near(&product, "fedsvd");
    assert!(product.left_out.iter().all(|value| *value < 1e-12), "{:?}", product.left_out);
}

#[test]
fn factors_of_another_shape_are_refused() {
    let (b, a) = (matrix(1, 7, 2), matrix(2, 2, 5));
    let client = Factors { b: &b[1..], a: &a, weight: 1.0 };
    let problem = flex_lora(&[client], SHAPE, 2).unwrap_err().to_string();
    assert_eq!(problem, "update 0 holds 13 numbers, the first 14");
    assert!(flex_lora(&[], SHAPE, 2).is_err());
    assert!(flex_lora(&[Factors { b: &b, a: &a, weight: 0.0 }], SHAPE, 2).is_err());
}
