//! The hazards of Llama Guard 3 (S1 to S14), and which of them other label sets mean.

use fedward_actors::protocol::Hazard;

/// Names in the order of their numbers, as the `PurpleLlama` model card has them. The 8B model knows all of them, the 1B model
/// the first 13.
const HAZARDS: [&str; 14] = [
    "Violent Crimes",
    "Non-Violent Crimes",
    "Sex-Related Crimes",
    "Child Sexual Exploitation",
    "Defamation",
    "Specialized Advice",
    "Privacy",
    "Intellectual Property",
    "Indiscriminate Weapons",
    "Hate",
    "Suicide & Self-Harm",
    "Sexual Content",
    "Elections",
    "Code Interpreter Abuse",
];

/// The name of a hazard; empty for a number that the taxonomy lacks.
pub fn name(hazard: Hazard) -> &'static str {
    usize::from(hazard.0).checked_sub(1).and_then(|index| HAZARDS.get(index)).copied().unwrap_or_default()
}

/// All hazards, in order.
pub fn all() -> impl Iterator<Item = Hazard> {
    (1..=HAZARDS.len() as u8).map(Hazard)
}

/// The hazard of a code such as `S9`.
pub fn parse(code: &str) -> Option<Hazard> {
    all().find(|hazard| hazard.to_string() == code)
}

/// The hazard of a label of `OpenAI`'s moderation set; `None` for harassment (`HR`), which the taxonomy has no place for
/// where it is aimed at no group.
pub fn of_moderation(label: &str) -> Option<Hazard> {
    match label {
        "V" | "V2" => Some(Hazard(1)),
        "S3" => Some(Hazard(4)),
        "H" | "H2" => Some(Hazard(10)),
        "SH" => Some(Hazard(11)),
        "S" => Some(Hazard(12)),
        _ => None,
    }
}

/// The hazard of a kind of harm as `PyRIT` names it; `None` where it fits none, as false information does.
pub fn of_harm(kind: &str) -> Option<Hazard> {
    match kind {
        "violence" => Some(Hazard(1)),
        "exploits" | "cyber" | "phishing" | "illegal_activity" => Some(Hazard(2)),
        "privacy" => Some(Hazard(7)),
        "chemical_biological" => Some(Hazard(9)),
        "hate_speech" | "bias" | "representational" => Some(Hazard(10)),
        "self_harm" => Some(Hazard(11)),
        "sexual_content" => Some(Hazard(12)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_taxonomy_alone() {
        assert_eq!(parse("S1"), Some(Hazard(1)));
        assert_eq!(parse("S14"), Some(Hazard(14)));
        for code in ["S0", "S15", "s1", "S01", "1", "S", "", "S1 "] {
            assert_eq!(parse(code), None, "{code:?}");
        }
    }
}
