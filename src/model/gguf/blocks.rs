//! Block formats of GGML and how to widen them to `f32`, bit for bit as the reference implementation does.

use half::{bf16, f16};

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// GGML's names of types by number, for messages about those that are not read.
const TYPE_NAMES: [(u32, &str); 26] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
];

impl BlockKind {
    /// The kind that GGML numbers `number`.
    ///
    /// # Errors
    ///
    /// Names the type, and those that can be read.
    pub(super) fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => {
                let name = TYPE_NAMES.iter().find(|(known, _)| *known == number).map_or("unknown", |(_, name)| name);
                return Err(format!(
                    "type {number} ({name}) is not supported; allowed: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, \
                     Q4_K, Q5_K, Q6_K"
                ));
            }
        })
    }

    /// Numbers in a block.
    pub(super) const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `width` numbers; `width` must be a multiple of the block's length.
    pub(super) const fn row_bytes(self, width: usize) -> usize {
        width / self.block_len() * self.block_bytes()
    }

    /// Widens a row: `bytes` holds as many whole blocks as `out` has numbers for.
    pub(super) fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let sizes = (self.block_bytes(), self.block_len());
        match self {
            Self::F32 => widen(bytes, out, sizes, |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => widen(bytes, out, sizes, |b, out| out[0] = half_at(b, 0)),
            Self::Bf16 => widen(bytes, out, sizes, |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => widen(bytes, out, sizes, q4_0),
            Self::Q4_1 => widen(bytes, out, sizes, q4_1),
            Self::Q5_0 => widen(bytes, out, sizes, q5_0),
            Self::Q5_1 => widen(bytes, out, sizes, q5_1),
            Self::Q8_0 => widen(bytes, out, sizes, q8_0),
            Self::Q4K => widen(bytes, out, sizes, q4_k),
            Self::Q5K => widen(bytes, out, sizes, q5_k),
            Self::Q6K => widen(bytes, out, sizes, q6_k),
        }
    }
}

/// Widens block after block; generic, so that a block's code is compiled into the loop.
fn widen(bytes: &[u8], out: &mut [f32], (block_bytes, block_len): (usize, usize), block: impl Fn(&[u8], &mut [f32])) {
    for (bytes, out) in bytes.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_len)) {
        block(bytes, out);
    }
}

fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Low nibbles are the first half of a block, high ones the second.
#[inline]
fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = number(f32::from(byte & 15));
        *high = number(f32::from(byte >> 4));
    }
}

/// As [`nibbles`], with the fifth bit of each number in the word `fifth`.
#[inline]
fn five_bits(fifth: &[u8], bytes: &[u8], out: &mut [f32], number: impl Fn(f32) -> f32) {
    let fifth = u32::from_le_bytes([fifth[0], fifth[1], fifth[2], fifth[3]]);
    let bit = |index: usize| (((fifth >> index) & 1) as u8) << 4;
    let (low, high) = out.split_at_mut(16);
    for (index, ((low, high), byte)) in low.iter_mut().zip(high).zip(bytes).enumerate() {
        *low = number(f32::from(byte & 15 | bit(index)));
        *high = number(f32::from(byte >> 4 | bit(index + 16)));
    }
}

/// `d: f16, 16 × nibble pair`; `w = d (q − 8)`.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..18], out, |q| scale * (q - 8.0));
}

/// `d: f16, m: f16, 16 × nibble pair`; `w = d q + m`.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..20], out, |q| scale * q + minimum);
}

/// `d: f16, 32 × fifth bit, 16 × nibble pair`; `w = d (q − 16)`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    five_bits(&block[2..6], &block[6..22], out, |q| scale * (q - 16.0));
}

/// `d: f16, m: f16, 32 × fifth bit, 16 × nibble pair`; `w = d q + m`.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..8], &block[8..24], out, |q| scale * q + minimum);
}

/// `d: f16, 32 × i8`; `w = d q`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..34]) {
        *out = f32::from(q.cast_signed()) * scale;
    }
}

/// Scale and minimum of sub-block `index` of eight, six bits each, packed into twelve bytes.
fn packed_scale(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        ((low & 15) | ((packed[index - 4] >> 2) & 0x30), (low >> 4) | ((packed[index] >> 2) & 0x30))
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d: f16, dmin: f16, 12 bytes of scales, 128 × nibble pair`; `w = (d s) q − dmin m` in sub-blocks of 32.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    for (index, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = packed_scale(&block[4..16], index);
        let (d, m) = (scale * sub_scale, minimum * sub_minimum);
        let low = &block[16 + index / 2 * 32..][..32];
        for (out, byte) in out.iter_mut().zip(low) {
            let q = if index % 2 == 0 { byte & 15 } else { byte >> 4 };
            *out = d * f32::from(q) - m;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the nibbles: bit `i` of each byte belongs to sub-block `i`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (index, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_minimum) = packed_scale(&block[4..16], index);
        let (d, m) = (scale * sub_scale, minimum * sub_minimum);
        let low = &block[48 + index / 2 * 32..][..32];
        for ((out, byte), high) in out.iter_mut().zip(low).zip(high) {
            let nibble = if index % 2 == 0 { byte & 15 } else { byte >> 4 };
            let q = nibble | ((high >> index) & 1) << 4;
            *out = d * f32::from(q) - m;
        }
    }
}

/// `128 × nibble pair, 64 × four upper bit pairs, 16 × i8 scale, d: f16`; `w = (d s) (q − 32)` in sub-blocks of 16.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (index, out) in out.iter_mut().enumerate() {
        let (half, within) = (index / 128, index % 128);
        let (quarter, column) = (within / 32, within % 32);
        let byte = low[half * 64 + (quarter % 2) * 32 + column];
        let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let upper = (high[half * 32 + column] >> (2 * quarter)) & 3;
        let q = f32::from(nibble | upper << 4) - 32.0;
        *out = scale * f32::from(scales[index / 16].cast_signed()) * q;
    }
}
