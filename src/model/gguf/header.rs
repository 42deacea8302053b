//! The header of a GGUF file: metadata and where each tensor lies. Every length is checked before it is believed.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use super::blocks::BlockKind;

/// More elements than any tokenizer has; a larger count comes from a corrupt file.
const LONGEST_ARRAY: u64 = 1 << 22;
/// Arrays may hold arrays, but nobody nests them deeper.
const DEEPEST_NESTING: usize = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Self>),
}

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
        }
    }
}

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorEntry {
    pub(super) kind: BlockKind,
    /// Slowest dimension first, as Hugging Face and libtorch write it.
    pub(super) shape: Vec<i64>,
    /// Bytes of the file.
    pub(super) range: Range<usize>,
}

impl TensorEntry {
    /// How many numbers the tensor holds.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().map(|&size| size as usize).product()
    }
}

/// A parsed header.
#[derive(Debug)]
pub(super) struct Header {
    metadata: HashMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorEntry>,
}

impl Header {
    /// Reads the header of the file `bytes`.
    ///
    /// # Errors
    ///
    /// Says what is wrong and at which byte.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, position: 0 };
        if bytes.get(..4) != Some(b"GGUF") {
            return Err("not a GGUF file: it does not begin with \"GGUF\"".to_owned());
        }
        reader.position = 4;
        match reader.u32()? {
            2 | 3 => {}
            swapped if matches!(swapped.swap_bytes(), 1..=3) => {
                return Err("the file is big-endian; only little-endian GGUF is read".to_owned());
            }
            version => return Err(format!("GGUF version: found {version}, allowed are 2 and 3")),
        }
        let (tensor_count, metadata_count) = (reader.u64()?, reader.u64()?);
        let metadata = reader.metadata(metadata_count)?;
        let mut header = Self { metadata, tensors: BTreeMap::new() };
        let parts = header.optional_integer("split.count")?.unwrap_or(1);
        if parts > 1 {
            return Err(format!("split.count: found {parts}; merge the parts with llama-gguf-split first"));
        }
        let alignment = header.optional_integer("general.alignment")?.unwrap_or(32);
        let alignment = usize::try_from(alignment)
            .ok()
            .filter(|alignment| alignment.is_power_of_two() && *alignment <= 1 << 20)
            .ok_or_else(|| format!("general.alignment: found {alignment}, allowed are powers of two up to 2^20"))?;
        header.tensors = reader.tensors(tensor_count, alignment)?;
        Ok(header)
    }

    /// The value of `key`, if the file has one.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The integer under `key`, if there is one.
    pub(super) fn optional_integer(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => {
                i64::try_from(*value).map(Some).map_err(|_| format!("{key}: found {value}, which is out of range"))
            }
            Some(other) => Err(format!("{key}: found {}, expected an integer", other.kind())),
        }
    }

    /// The integer under `key`.
    pub(super) fn integer(&self, key: &str) -> Result<i64, String> {
        self.optional_integer(key)?.ok_or_else(|| format!("metadata {key} is missing"))
    }

    /// The number under `key`, if there is one.
    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(other) => Err(format!("{key}: found {}, expected a float", other.kind())),
        }
    }

    /// The string under `key`, if there is one.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{key}: found {}, expected a string", other.kind())),
        }
    }

    /// The string under `key`.
    pub(super) fn text(&self, key: &str) -> Result<&str, String> {
        self.optional_text(key)?.ok_or_else(|| format!("metadata {key} is missing"))
    }

    /// The array under `key`.
    pub(super) fn array(&self, key: &str) -> Result<&[Value], String> {
        match self.get(key) {
            None => Err(format!("metadata {key} is missing")),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(format!("{key}: found {}, expected an array", other.kind())),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.remaining()).ok_or_else(|| {
            format!(
                "the header wants {length} bytes at byte {}, but the file ends at {}",
                self.position,
                self.bytes.len()
            )
        })?;
        let taken = &self.bytes[self.position..self.position + length];
        self.position += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let start = self.position;
        let length = self.u64()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(format!("the string at byte {start} is not UTF-8")),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<HashMap<String, Value>, String> {
        let mut metadata = HashMap::new();
        for _ in 0..count {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0).map_err(|problem| format!("metadata {key}: {problem}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata {key} is there twice"));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(shortest_decimal(f32::from_le_bytes(self.array()?))),
            7 => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("boolean: found {other}, allowed are 0 and 1")),
            },
            8 => Value::Text(self.text()?),
            9 => self.values(depth)?,
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("value type: found {kind}, allowed are 0 to 12")),
        })
    }

    fn values(&mut self, depth: usize) -> Result<Value, String> {
        if depth >= DEEPEST_NESTING {
            return Err(format!("arrays are nested more than {DEEPEST_NESTING} deep"));
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if count > LONGEST_ARRAY {
            return Err(format!("array length: found {count}, at most {LONGEST_ARRAY} is plausible"));
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(kind, depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    fn tensors(&mut self, count: u64, alignment: usize) -> Result<BTreeMap<String, TensorEntry>, String> {
        let mut infos = Vec::new();
        for _ in 0..count {
            let name = self.text()?;
            let (shape, kind, offset) = self.tensor_info().map_err(|problem| format!("tensor {name}: {problem}"))?;
            infos.push((name, shape, kind, offset));
        }
        let data_start = self.position.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, shape, kind, offset) in infos {
            let range = tensor_range(&shape, kind, offset, data_start, self.bytes.len())
                .map_err(|problem| format!("tensor {name}: {problem}"))?;
            if tensors.insert(name.clone(), TensorEntry { kind, shape, range }).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        Ok(tensors)
    }

    fn tensor_info(&mut self) -> Result<(Vec<i64>, BlockKind, u64), String> {
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(format!("found {dimensions} dimensions, allowed are 1 to 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(i64::try_from(size).ok().filter(|size| *size > 0).ok_or(format!("dimension of size {size}"))?);
        }
        shape.reverse();
        let kind = BlockKind::from_number(self.u32()?)?;
        Ok((shape, kind, self.u64()?))
    }
}

/// The bytes of a tensor, checked against the file's length.
fn tensor_range(
    shape: &[i64],
    kind: BlockKind,
    offset: u64,
    data_start: usize,
    file_len: usize,
) -> Result<Range<usize>, String> {
    let sizes = || shape.iter().map(|&size| size as usize);
    let width = sizes().next_back().unwrap_or(1);
    if width % kind.block_len() != 0 {
        return Err(format!("rows of {width} numbers do not divide into {kind:?} blocks of {}", kind.block_len()));
    }
    let range = || {
        let rows = sizes().rev().skip(1).try_fold(1_usize, usize::checked_mul)?;
        let length = rows.checked_mul((width / kind.block_len()).checked_mul(kind.block_bytes())?)?;
        let start = data_start.checked_add(usize::try_from(offset).ok()?)?;
        let end = start.checked_add(length)?;
        // Numbers in memory are wider than in the file: their count must not overflow either.
        rows.checked_mul(width)?.checked_mul(size_of::<f32>())?;
        (end <= file_len).then_some(start..end)
    };
    range().ok_or_else(|| {
        format!("shape {shape:?} at offset {offset} reaches beyond the end of the file ({file_len} bytes): truncated?")
    })
}

/// The number that a person wrote before it was rounded to `f32`: 1e-5, not 9.999999747378752e-6.
fn shortest_decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_constants_read_as_they_were_written() {
        assert_eq!(shortest_decimal(1e-5_f32).to_bits(), 1e-5_f64.to_bits());
        assert!(shortest_decimal(f32::NAN).is_nan());
    }

    #[test]
    fn absurd_counts_are_errors() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(Header::parse(&bytes).unwrap_err().contains("the file ends at 24"));
        assert!(Header::parse(b"GGML").unwrap_err().starts_with("not a GGUF file"));
        assert!(Header::parse(b"GGUF\0\0\0\x03").unwrap_err().contains("big-endian"));
    }
}
