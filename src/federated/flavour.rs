//! Whose form of an algorithm: papers and the frameworks named here disagree on the same name.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// The form of an algorithm that implementations write differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The equations of the paper that introduced the algorithm.
    #[default]
    Paper,
    /// As `OpenFedLLM` computes it.
    OpenFedLlm,
    /// As Flower computes it.
    Flower,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Paper, Self::OpenFedLlm, Self::Flower];

    /// Its name in scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::OpenFedLlm => "openfedllm",
            Self::Flower => "flower",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Flavour {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for Flavour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|flavour| flavour.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}, found {text:?}")
        })
    }
}
