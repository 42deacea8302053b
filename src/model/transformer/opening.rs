//! Tokens that are computed once for all that begin with them.

use tch::Tensor;

use super::{Result, Transformer};

/// Tokens that many questions begin with, computed: queries, keys and values of each layer, rotated.
///
/// # Shapes
///
/// `[tokens, columns]` each
pub(crate) struct Opening {
    pub(crate) ids: Vec<u32>,
    pub(crate) qkv: Vec<Tensor>,
}

impl Transformer<'_> {
    /// Computes what many questions begin with.
    pub(crate) fn open(&self, ids: &[u32]) -> Result<Opening> {
        let mut qkv = Vec::new();
        let packed = self.pack(&[ids], false)?;
        let mut keep = |_: usize, layer: &Tensor| {
            qkv.push(layer.shallow_clone());
            Ok(())
        };
        let _ = self.forward(&packed, Some(&mut keep))?;
        Ok(Opening { ids: ids.to_vec(), qkv })
    }
}
