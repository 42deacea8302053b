//! Several low-rank terms as one: their ranks one behind another compute the sum of their products.

use std::sync::Arc;

use fedward_actors::protocol::{Adapter, AdapterLayout, AdapterTensor, Factor};

use crate::model::{ModelError, Result};

/// Stacks terms of the same targets into one adapter: `[s_1 B_1, s_2 B_2, …]` and `[A_1; A_2; …]`, unscaled. Nothing is lost but
/// the rounding of `s B`.
///
/// # Shapes
///
/// A of `r_k × inputs` and B of `outputs × r_k` become `Σ r_k × inputs` and `outputs × Σ r_k`.
///
/// # Errors
///
/// [`ModelError::Unusable`] if there is no term, or terms differ in their targets.
pub(crate) fn stack(terms: &[&Adapter]) -> Result<Adapter> {
    let first = terms.first().ok_or_else(|| ModelError::Unusable("there are no adapters to stack".into()))?;
    let mut tensors = Vec::with_capacity(first.layout().tensors().len());
    for index in 0..first.layout().tensors().len() {
        let parts: Vec<Part<'_>> =
            terms.iter().map(|term| Part::of(term, index)).collect::<Option<_>>().ok_or_else(misfit)?;
        let (name, is_a) = (&parts[0].tensor.name, parts[0].is_a());
        let across = usize::from(is_a);
        let alike =
            |part: &Part<'_>| part.tensor.name == *name && part.tensor.shape[across] == parts[0].tensor.shape[across];
        if !parts.iter().all(alike) {
            return Err(misfit());
        }
        tensors.push((name.clone(), if is_a { above_one_another(&parts) } else { side_by_side(&parts) }));
    }
    if terms.iter().any(|term| term.layout().tensors().len() != tensors.len()) {
        return Err(misfit());
    }
    let layout = AdapterLayout::new(tensors.iter().map(|(name, (shape, _))| (name.clone(), *shape)));
    let values = tensors.into_iter().flat_map(|(_, (_, values))| values).collect();
    Adapter::new(Arc::new(layout), values).map_err(|error| ModelError::Unusable(error.to_string()))
}

pub(super) fn misfit() -> ModelError {
    ModelError::Unusable("adapters that are added up differ in their targets".into())
}

/// One tensor of one term.
struct Part<'a> {
    tensor: &'a AdapterTensor,
    values: &'a [f32],
    scaling: f64,
}

impl<'a> Part<'a> {
    fn of(term: &'a Adapter, index: usize) -> Option<Self> {
        let tensor = term.layout().tensors().get(index)?;
        Some(Self { tensor, values: term.tensor(tensor), scaling: term.layout().scaling() })
    }

    fn is_a(&self) -> bool {
        Factor::of(self.tensor) == Some(Factor::A)
    }
}

type Matrix = ([usize; 2], Vec<f32>);

fn above_one_another(parts: &[Part<'_>]) -> Matrix {
    let rank = parts.iter().map(|part| part.tensor.shape[0]).sum();
    let values = parts.iter().flat_map(|part| part.values).copied().collect();
    ([rank, parts[0].tensor.shape[1]], values)
}

fn side_by_side(parts: &[Part<'_>]) -> Matrix {
    let (outputs, rank) = (parts[0].tensor.shape[0], parts.iter().map(|part| part.tensor.shape[1]).sum());
    let mut values = Vec::with_capacity(outputs * rank);
    for row in 0..outputs {
        for part in parts {
            let own = part.tensor.shape[1];
            let scaled = |value: &f32| (f64::from(*value) * part.scaling) as f32;
            values.extend(part.values[row * own..(row + 1) * own].iter().map(scaled));
        }
    }
    ([outputs, rank], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(rank: usize, scaling: f64, first: f32) -> Adapter {
        let tensors = [("x.lora_A.weight".to_owned(), [rank, 3]), ("x.lora_B.weight".to_owned(), [2, rank])];
        let layout = Arc::new(AdapterLayout::new(tensors).with_scaling(scaling));
        let values = (0..layout.len()).map(|index| first + index as f32).collect();
        Adapter::new(layout, values).unwrap()
    }

    /// `s B A`, row by row.
    fn product(term: &Adapter) -> Vec<f64> {
        let [a, b] = [0, 1].map(|index| term.tensor(&term.layout().tensors()[index]));
        let rank = b.len() / 2;
        let entry = |row: usize, column: usize| -> f64 {
            let terms = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 3 + column]));
            term.layout().scaling() * terms.sum::<f64>()
        };
        (0..6).map(|index| entry(index / 3, index % 3)).collect()
    }

    #[test]
    fn a_stack_computes_the_sum_of_its_terms() {
        let terms = [term(1, 2.0, 1.0), term(2, 0.5, -4.0), term(3, 1.0, 0.25)];
        let stacked = stack(&terms.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(stacked.layout().tensors()[1].shape, [2, 6]);
        let sum: Vec<f64> = (0..6).map(|index| terms.iter().map(|term| product(term)[index]).sum()).collect();
        assert_eq!(product(&stacked), sum);
    }

    #[test]
    fn terms_of_other_targets_are_refused() {
        let other =
            AdapterLayout::new([("y.lora_A.weight".to_owned(), [1, 3]), ("y.lora_B.weight".to_owned(), [2, 1])]);
        let problem = stack(&[&term(1, 1.0, 0.0), &Adapter::zeros(Arc::new(other))]).unwrap_err().to_string();
        assert!(problem.contains("differ in their targets"), "{problem}");
        assert!(stack(&[]).is_err());
    }
}
