//! Means of low-rank products: what `mean(B) mean(A)` only stands for.
//!
//! A client's LoRA adapter changes a weight by `s B A`. The mean of such products is of a higher rank than each of them, but never has to
//! be written out: with `[√p_k B_k] = Q_B R_B` and `[√p_k A_k]ᵀ = Q_A R_A`, stacked over clients, it is `Q_B (R_B R_Aᵀ) Q_Aᵀ`, of which
//! the core in the middle is small.

use nalgebra::{DMatrix, SVD};

use crate::AggregationError;

/// One client's factors of one weight, row by row, and what they count.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// B: `rows` × rank.
    pub b: &'a [f32],
    /// A: rank × `columns`.
    pub a: &'a [f32],
    /// p, not negative; weights are divided by their sum.
    pub weight: f64,
}

/// Factors of a product, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// B: `rows` × rank.
    pub b: Vec<f32>,
    /// A: rank × `columns`.
    pub a: Vec<f32>,
    /// The singular values that the rank keeps, largest first.
    pub kept: Vec<f64>,
    /// Those that it leaves out: the root of the sum of their squares is what the product loses.
    pub left_out: Vec<f64>,
}

/// Where the singular values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// `B = U √Σ`, `A = √Σ Vᵀ`.
    Even,
    /// `B = U Σ`, `A = Vᵀ`, whose rows are orthonormal.
    IntoB,
}

/// Computes `FlexLoRA`'s aggregate ("Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", Bai et
/// al. 2024, section 3): factors of the best approximation of rank `rank` of `Σ p_k B_k A_k`, singular values split evenly.
/// Clients' ranks may differ. (Scaled products are the same where clients' scalings are.)
///
/// # Shapes
///
/// `clients`: `B_k` of `rows` × `r_k`, `A_k` of `r_k` × `columns`.
///
/// # Errors
///
/// [`AggregationError::NoWeight`] of none, [`AggregationError::Length`] if factors do not fit the shape.
pub fn flex_lora(
    clients: &[Factors<'_>],
    [rows, columns]: [usize; 2],
    rank: usize,
) -> Result<Product, AggregationError> {
    mean_product(clients, [rows, columns], rank, Split::Even)
}

/// Computes `FedSVD`'s step ("`FedSVD`: Adaptive Orthogonalization for Private Federated Learning with LoRA", Lee et al. 2025, section 3): of
/// `B̄ A`, A being one and the same for all clients, `A ← V_rᵀ`, `B ← U_r Σ_r`. Nothing of the product is lost.
///
/// # Shapes
///
/// As [`flex_lora`], all A being equal.
///
/// # Errors
///
/// As [`flex_lora`].
pub fn fed_svd(clients: &[Factors<'_>], [rows, columns]: [usize; 2], rank: usize) -> Result<Product, AggregationError> {
    mean_product(clients, [rows, columns], rank, Split::IntoB)
}

/// Factors of rank `rank` of `Σ p_k B_k A_k`. Each column of U has its largest magnitude positive, so that factors are
/// determined.
///
/// # Errors
///
/// As [`flex_lora`].
pub fn mean_product(
    clients: &[Factors<'_>],
    [rows, columns]: [usize; 2],
    rank: usize,
    split: Split,
) -> Result<Product, AggregationError> {
    let total: f64 = clients.iter().map(|client| client.weight).sum();
    if total.is_nan() || total <= 0.0 {
        return Err(AggregationError::NoWeight { updates: clients.len() });
    }
    let ranks = clients.iter().enumerate().map(|(index, client)| inner_rank(index, client, [rows, columns]));
    let stacked: usize = ranks.sum::<Result<usize, _>>()?;
    let (mut b, mut a) = (DMatrix::zeros(rows, stacked), DMatrix::zeros(columns, stacked));
    let mut offset = 0;
    for client in clients {
        let (own, share) = (client.a.len() / columns, (client.weight / total).sqrt());
        for k in 0..own {
            for row in 0..rows {
                b[(row, offset + k)] = share * f64::from(client.b[row * own + k]);
            }
            for column in 0..columns {
                a[(column, offset + k)] = share * f64::from(client.a[k * columns + column]);
            }
        }
        offset += own;
    }
    let (b, a) = (b.qr(), a.qr());
    let core = b.r() * a.r().transpose();
    let SVD { u, v_t, singular_values } = SVD::new(core, true, true);
    // Both were asked for.
    let (u, v) = (b.q() * u.unwrap_or_default(), a.q() * v_t.unwrap_or_default().transpose());
    let (kept, left_out) = (singular_values.iter().take(rank), singular_values.iter().skip(rank));
    let mut product = Product {
        b: vec![0.0; rows * rank],
        a: vec![0.0; rank * columns],
        kept: kept.copied().collect(),
        left_out: left_out.copied().collect(),
    };
    for (k, &value) in singular_values.iter().take(rank).enumerate() {
        let largest = u.column(k).icamax();
        let sign = u[(largest, k)].signum();
        let (in_b, in_a) = match split {
            Split::Even => (sign * value.sqrt(), sign * value.sqrt()),
            Split::IntoB => (sign * value, sign),
        };
        for row in 0..rows {
            product.b[row * rank + k] = (in_b * u[(row, k)]) as f32;
        }
        for column in 0..columns {
            product.a[k * columns + column] = (in_a * v[(column, k)]) as f32;
        }
    }
    Ok(product)
}

/// The rank of a client's factors.
fn inner_rank(index: usize, client: &Factors<'_>, [rows, columns]: [usize; 2]) -> Result<usize, AggregationError> {
    let rank = client.a.len() / columns.max(1);
    if rank * columns == client.a.len() && rank * rows == client.b.len() {
        return Ok(rank);
    }
    Err(AggregationError::Length { index, expected: rank * rows, found: client.b.len() })
}
