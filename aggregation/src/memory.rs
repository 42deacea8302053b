//! What rules remember between rounds.

use std::collections::BTreeMap;

/// Vectors by number: a rule's own (0), or one for each client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    vectors: BTreeMap<u64, Vec<f32>>,
}

impl Memory {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Returns the vector of this number, if it was ever set.
    pub fn get(&self, key: u64) -> Option<&[f32]> {
        self.vectors.get(&key).map(Vec::as_slice)
    }

    /// Remembers a vector under this number.
    pub fn set(&mut self, key: u64, vector: Vec<f32>) {
        self.vectors.insert(key, vector);
    }

    /// Returns its bytes: for each vector its number, its length, and its values, all little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, vector) in &self.vectors {
            bytes.extend(key.to_le_bytes());
            bytes.extend((vector.len() as u64).to_le_bytes());
            bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// Returns what [`Memory::to_bytes`] wrote; `None` if the bytes are no memory.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut vectors = BTreeMap::new();
        while !bytes.is_empty() {
            let (key, rest) = bytes.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?.checked_mul(size_of::<f32>())?;
            let (values, rest) = rest.split_at_checked(length)?;
            let values = values.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
            vectors.insert(u64::from_le_bytes(*key), values);
            bytes = rest;
        }
        Some(Self { vectors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_hold_it_whole_and_what_is_cut_is_refused() {
        let mut memory = Memory::default();
        assert_eq!(Memory::from_bytes(&memory.to_bytes()), Some(memory.clone()));
        memory.set(7, vec![1.5, -2.0]);
        memory.set(0, vec![0.25]);
        let bytes = memory.to_bytes();
        assert_eq!(Memory::from_bytes(&bytes), Some(memory));
        assert!((1..bytes.len()).filter_map(|cut| Memory::from_bytes(&bytes[..cut])).all(|cut| cut.get(7).is_none()));
        assert_eq!(Memory::from_bytes(&[255; 16]), None);
    }
}
