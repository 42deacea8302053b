//! The two matrices of a low-rank product.

use super::AdapterTensor;

/// One of the factors of `s B A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// `[rank, inputs]`.
    A,
    /// `[outputs, rank]`.
    B,
}

impl Factor {
    /// Returns which of the two a tensor is, by PEFT's names; `None` for a tensor of another name.
    pub fn of(tensor: &AdapterTensor) -> Option<Self> {
        if tensor.name.contains(".lora_A.") {
            Some(Self::A)
        } else if tensor.name.contains(".lora_B.") {
            Some(Self::B)
        } else {
            None
        }
    }

    /// Returns the axis along which the ranks lie.
    pub const fn rank_axis(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// Returns it as a number of a payload.
    pub const fn to_number(self) -> f64 {
        match self {
            Self::A => 0.0,
            Self::B => 1.0,
        }
    }

    /// Returns what [`Factor::to_number`] gave as a number.
    pub fn from_number(number: f64) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|factor| factor.to_number().to_bits() == number.to_bits())
    }
}
