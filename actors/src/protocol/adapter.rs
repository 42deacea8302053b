//! The LoRA adapter as it travels: one flat buffer of numbers beside a layout that every actor of a run shares.

use std::{borrow::Cow, ops::Range, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};

/// One tensor of an adapter: its PEFT name, shape and place in the flat buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterTensor {
    /// PEFT's name, for example `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Rows and columns: `[rank, in_features]` for A, `[out_features, rank]` for B.
    pub shape: [usize; 2],
    /// Index of the first number in the flat buffer.
    pub offset: usize,
}

impl AdapterTensor {
    /// How many numbers the tensor holds.
    pub const fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether the tensor holds no number.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the tensor lies in the flat buffer.
    pub const fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The tensors of an adapter, in the order in which they lie in the flat buffer, and what their products are multiplied by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedLayout")]
pub struct AdapterLayout {
    tensors: Vec<AdapterTensor>,
    scaling: f64,
}

/// A layout as it was read: nothing is known of it yet.
#[derive(Deserialize)]
struct UncheckedLayout {
    tensors: Vec<AdapterTensor>,
    #[serde(default = "unscaled")]
    scaling: f64,
}

const fn unscaled() -> f64 {
    1.0
}

impl TryFrom<UncheckedLayout> for AdapterLayout {
    type Error = String;

    /// Tensors lie one behind another, their sizes can be counted, and the scaling is a number.
    fn try_from(UncheckedLayout { tensors, scaling }: UncheckedLayout) -> Result<Self, String> {
        let mut expected = 0_usize;
        for AdapterTensor { name, shape, offset } in &tensors {
            if *offset != expected {
                return Err(format!("tensor {name}: expected offset {expected}, found {offset}"));
            }
            let end = shape[0].checked_mul(shape[1]).and_then(|len| len.checked_add(expected));
            // In bytes, too.
            expected = end
                .filter(|end| end.checked_mul(size_of::<f32>()).is_some())
                .ok_or_else(|| format!("tensor {name}: the shape {shape:?} is larger than memory can be"))?;
        }
        if !scaling.is_finite() {
            return Err(format!("expected a finite scaling, found {scaling}"));
        }
        Ok(Self { tensors, scaling })
    }
}

impl AdapterLayout {
    /// Lays out tensors one after another, in the given order, unscaled.
    pub fn new(tensors: impl IntoIterator<Item = (String, [usize; 2])>) -> Self {
        let mut offset = 0;
        let tensors = tensors
            .into_iter()
            .map(|(name, shape)| {
                let tensor = AdapterTensor { name, shape, offset };
                offset += tensor.len();
                tensor
            })
            .collect();
        Self { tensors, scaling: unscaled() }
    }

    /// Returns the layout of adapters whose products are multiplied by `scaling`.
    #[must_use]
    pub const fn with_scaling(mut self, scaling: f64) -> Self {
        self.scaling = scaling;
        self
    }

    /// Returns s in `W + s B A`; 1 unless it was said.
    pub const fn scaling(&self) -> f64 {
        self.scaling
    }

    /// The tensors in buffer order.
    pub fn tensors(&self) -> &[AdapterTensor] {
        &self.tensors
    }

    /// How many numbers an adapter of this layout holds.
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |tensor| tensor.range().end)
    }

    /// Whether an adapter of this layout holds no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of an adapter of this layout on the wire, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.len() as u64 * size_of::<f32>() as u64
    }

    /// The first difference between two layouts in words, or `None` if they are the same.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        for (ours, theirs) in self.tensors.iter().zip(&other.tensors) {
            if ours.name != theirs.name {
                return Some(format!("expected tensor {}, found {}", ours.name, theirs.name));
            }
            if ours.shape != theirs.shape {
                return Some(format!(
                    "tensor {}: expected shape {:?}, found {:?}",
                    ours.name, ours.shape, theirs.shape
                ));
            }
        }
        let (ours, theirs) = (self.tensors.len(), other.tensors.len());
        if ours != theirs {
            return Some(format!("expected {ours} tensors, found {theirs}"));
        }
        let (ours, theirs) = (self.scaling, other.scaling);
        (ours.to_bits() != theirs.to_bits()).then(|| format!("expected a scaling of {ours}, found {theirs}"))
    }
}

/// Why a buffer is not an adapter of a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// The buffer has the wrong length for its layout.
    #[error("an adapter of this layout holds {expected} numbers, found {found}")]
    WrongLength {
        /// Numbers that the layout asks for.
        expected: usize,
        /// Numbers that were given.
        found: usize,
    },
    /// Two adapters that should meet have different layouts (invariant A-1).
    #[error("adapter layouts differ: {0}")]
    LayoutMismatch(String),
    /// A value is NaN or infinite (invariant A-2).
    #[error("tensor {tensor} holds a value that is not finite")]
    NotFinite {
        /// The first tensor with such a value.
        tensor: String,
    },
}

/// LoRA matrices A and B of every target, as one flat `f32` buffer and a shared layout.
///
/// Cloning is cheap: both parts are shared. Holds a whole adapter or, as [`AdapterDelta`], the difference of two.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    layout: Arc<AdapterLayout>,
    values: Arc<Vec<f32>>,
}

/// An adapter on the wire: its layout, and its values as one run of little-endian `f32`.
#[derive(Serialize, Deserialize)]
struct RawAdapter<'a> {
    layout: Cow<'a, AdapterLayout>,
    values: Cow<'a, serde_bytes::Bytes>,
}

impl Serialize for Adapter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = Vec::with_capacity(self.values.len() * size_of::<f32>());
        for value in self.values.iter() {
            values.extend_from_slice(&value.to_le_bytes());
        }
        let values = Cow::Owned(serde_bytes::ByteBuf::from(values));
        RawAdapter { layout: Cow::Borrowed(&self.layout), values }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Adapter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawAdapter { layout, values } = RawAdapter::deserialize(deserializer)?;
        let (layout, (numbers, rest)) = (Arc::new(layout.into_owned()), values.as_chunks::<4>());
        if !rest.is_empty() {
            let problem =
                format!("an adapter of this layout holds {} bytes, found {}", layout.size_bytes(), values.len());
            return Err(D::Error::custom(problem));
        }
        Self::new(layout, numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()).map_err(D::Error::custom)
    }
}

/// A local adapter minus the global one that it started from.
pub type AdapterDelta = Adapter;

impl Adapter {
    /// An adapter of `layout` with the given values.
    ///
    /// # Errors
    ///
    /// [`AdapterError::WrongLength`] if the buffer does not fit the layout.
    pub fn new(layout: Arc<AdapterLayout>, values: Vec<f32>) -> Result<Self, AdapterError> {
        if values.len() == layout.len() {
            Ok(Self { layout, values: Arc::new(values) })
        } else {
            Err(AdapterError::WrongLength { expected: layout.len(), found: values.len() })
        }
    }

    /// An adapter of values that were made for the layout.
    pub(super) fn from_parts(layout: Arc<AdapterLayout>, values: Vec<f32>) -> Self {
        debug_assert_eq!(layout.len(), values.len());
        Self { layout, values: Arc::new(values) }
    }

    /// An adapter of zeros.
    pub fn zeros(layout: Arc<AdapterLayout>) -> Self {
        let values = Arc::new(vec![0.0; layout.len()]);
        Self { layout, values }
    }

    /// Returns the same values with products multiplied by `scaling`.
    #[must_use]
    pub fn with_scaling(&self, scaling: f64) -> Self {
        Self { layout: Arc::new((*self.layout).clone().with_scaling(scaling)), values: Arc::clone(&self.values) }
    }

    /// The tensors and where they lie.
    pub const fn layout(&self) -> &Arc<AdapterLayout> {
        &self.layout
    }

    /// All values, in layout order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values of one tensor of this adapter's layout.
    pub fn tensor(&self, tensor: &AdapterTensor) -> &[f32] {
        &self.values[tensor.range()]
    }

    /// Size on the wire, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.layout.size_bytes()
    }

    /// Checks that `other` has this adapter's layout (invariant A-1).
    ///
    /// # Errors
    ///
    /// [`AdapterError::LayoutMismatch`] names the first difference.
    pub fn check_same_layout(&self, other: &Self) -> Result<(), AdapterError> {
        self.layout_difference(other).map_or(Ok(()), |difference| Err(AdapterError::LayoutMismatch(difference)))
    }

    /// The first difference in layout to `other` in words; most adapters of a run share one layout.
    pub(crate) fn layout_difference(&self, other: &Self) -> Option<String> {
        if Arc::ptr_eq(&self.layout, &other.layout) { None } else { self.layout.first_difference(&other.layout) }
    }

    /// Checks that every value is finite (invariant A-2).
    ///
    /// # Errors
    ///
    /// [`AdapterError::NotFinite`] names the first tensor with another value.
    pub fn check_finite(&self) -> Result<(), AdapterError> {
        let Some(index) = self.values.iter().position(|value| !value.is_finite()) else {
            return Ok(());
        };
        let tensor = self.layout.tensors.iter().find(|tensor| tensor.range().contains(&index));
        Err(AdapterError::NotFinite { tensor: tensor.map(|tensor| tensor.name.clone()).unwrap_or_default() })
    }

    /// This adapter minus `start`.
    ///
    /// # Errors
    ///
    /// [`AdapterError::LayoutMismatch`] if the two differ in layout.
    pub fn delta_from(&self, start: &Self) -> Result<AdapterDelta, AdapterError> {
        start.check_same_layout(self)?;
        let values = self.values.iter().zip(start.values.iter()).map(|(local, global)| local - global).collect();
        Self::new(Arc::clone(&self.layout), values)
    }

    /// Euclidean norm of all values.
    pub fn l2_norm(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    }

    /// SHA-256 of names, shapes and little-endian values, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for tensor in &self.layout.tensors {
            hash.update(tensor.name.as_bytes());
            hash.update([0]);
            hash.update((tensor.shape[0] as u64).to_le_bytes());
            hash.update((tensor.shape[1] as u64).to_le_bytes());
        }
        for chunk in self.values.chunks(4096) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            hash.update(&bytes);
        }
        hex(&hash.finalize())
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
