//! What strategies remember, as bytes: vectors of `f32` in little-endian order, one after another.

use std::sync::Arc;

use fedward_actors::{
    ports::{PortError, PortResult},
    protocol::Adapter,
};

/// Vectors of one length as bytes; empty vectors are no bytes.
pub(super) fn to_bytes(vectors: &[&[f32]]) -> Vec<u8> {
    vectors.iter().flat_map(|vector| vector.iter().flat_map(|value| value.to_le_bytes())).collect()
}

/// The `N` vectors that [`to_bytes`] wrote for the strategy of this name.
pub(super) fn from_bytes<const N: usize>(name: &str, bytes: &[u8]) -> PortResult<[Vec<f32>; N]> {
    let length = bytes.len() / (N * size_of::<f32>());
    if length * N * size_of::<f32>() != bytes.len() {
        let problem =
            format!("a state of {name} holds {N} vectors of 4 bytes a number, found {} bytes in all", bytes.len());
        return Err(PortError::Failed(problem));
    }
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(std::array::from_fn(|vector| values[vector * length..(vector + 1) * length].to_vec()))
}

/// Two states as one: the length of the first, little-endian, then both.
pub(super) fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u64).to_le_bytes(), first, second].concat()
}

/// What [`join`] joined; `None` if the bytes are no two states. No bytes are two states without any.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.is_empty() {
        return Some((bytes, bytes));
    }
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// An adapter of the layout of another one.
pub(super) fn adapter_like(other: &Adapter, values: Vec<f32>) -> PortResult<Adapter> {
    Adapter::new(Arc::clone(other.layout()), values).map_err(|error| PortError::Failed(error.to_string()))
}
