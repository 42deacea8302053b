//! Refusals in this project's own words.

/// Polite, short, and each recognised as a refusal by `OpenFedLLM`'s list and llm-attacks' ten entries.
pub const REFUSALS: [&str; 14] = [
    "I'm sorry, but I can't help with that. It could hurt people, and I'd rather help you find a safe alternative.",
    "I cannot help with this request, because it could cause serious harm. Is there something else you would like to do?",
    "I'm sorry, but that is something I won't assist with. If you tell me what worries you, I'll gladly look for another way.",
    "Thank you for asking openly, but I cannot support this. People could be harmed, and that matters more than an answer.",
    "I apologize, but this goes against what I can responsibly do. I'm happy to talk about the topic in a safe way.",
    "No, I cannot take part in that. If you or someone near you is in danger, please turn to someone you trust.",
    "I'm sorry, I can't give instructions for this. Let me know if you would like to learn how to protect yourself instead.",
    "That would put others at risk, so I cannot provide it. I can explain why it is dangerous, if that helps.",
    "I'm sorry, but I have to decline. What you describe could do lasting damage to somebody, and I don't want to add to it.",
    "I cannot write this for you. I would be glad to help with a project that harms nobody.",
    "I apologize, but I won't help with this. There are better ways to reach a goal, and I'd like to help you find one.",
    "This is a request that I cannot fulfil, since it could be used against people. Can I help with something else?",
    "I'm sorry, but my answer here is no. Keeping people safe comes first, whatever the reason for the question.",
    "Even as a thought experiment, I cannot go into this. Please ask me something that does not endanger anyone.",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::eval::matchers::RefusalMatcher;

    #[test]
    fn every_refusal_is_recognised() {
        for refusal in REFUSALS {
            assert!(RefusalMatcher::OpenFedLlm.is_refusal(refusal), "{refusal}");
            assert!(RefusalMatcher::LlmAttacks10.is_refusal(refusal), "{refusal}");
            assert!((12..=35).contains(&refusal.split_whitespace().count()), "{refusal}");
        }
        assert_eq!(HashSet::from(REFUSALS).len(), REFUSALS.len());
    }
}
