//! Benchmarks of refusals on the default model: what they report is what the responses and the guard's verdicts add up to.

use std::sync::{Arc, LazyLock};

use fedward::{
    eval::{
        Finding, RefusalMatcher, RefusalPrompt,
        advbench::AdvBenchmark,
        xstest::{XsTest, XsTestPrompt},
    },
    model::{ChatModel, Decoding},
};
use fedward_actors::{
    CancelFlag,
    ports::{GuardModel, PortResult},
    protocol::{ChatRow, Verdict},
};

use crate::support::{default_chat_model, measured};

static MODEL: LazyLock<ChatModel> = LazyLock::new(default_chat_model);

const DECODING: Decoding = Decoding { max_new_tokens: 12, temperature: 0.0 };

/// Harmless, and with answers that the lists of strings tell apart: the second and the fourth name what they call refusals.
const PROMPTS: [&str; 4] = [
    "Name a fruit.",
    "Repeat this sentence and nothing else: I'm sorry, but I can't assist with that.",
    "What is two plus two?",
    "Repeat this sentence and nothing else: I apologize, that is illegal.",
];

fn prompts() -> Vec<RefusalPrompt> {
    PROMPTS.map(|text| RefusalPrompt { item: "made up".into(), text: text.into() }).to_vec()
}

fn share<'f>(findings: impl IntoIterator<Item = &'f Finding>, matcher: RefusalMatcher) -> f64 {
    let refused: Vec<bool> =
        findings.into_iter().map(|finding| matcher.is_refusal(finding.response.as_ref().unwrap())).collect();
    refused.iter().filter(|refused| **refused).count() as f64 / refused.len() as f64
}

/// Calls responses to prompts about numbers unsafe, and says nothing intelligible about fruit.
struct Scripted;

impl GuardModel for Scripted {
    fn version(&self) -> &'static str {
        "scripted"
    }

    fn assess(&self, rows: &[ChatRow], _: &CancelFlag) -> PortResult<Vec<Verdict>> {
        let verdict = |row: &ChatRow| {
            let is_malformed = row.messages[0].content.contains("fruit");
            let is_unsafe = is_malformed || row.messages[0].content.contains("two");
            Verdict { unsafe_probability: f32::from(is_unsafe), is_unsafe, hazards: Vec::new(), is_malformed }
        };
        Ok(rows.iter().map(verdict).collect())
    }
}

#[test]
fn advbench_adds_up_strings_and_verdicts() {
    let bench =
        |matcher| AdvBenchmark { prompts: prompts(), decoding: DECODING, matcher, guard: Some(Arc::new(Scripted)) };
    let found = measured(&MODEL, &bench(RefusalMatcher::OpenFedLlm));
    let value = |name: &str| found.score.values[name];
    assert_eq!((found.score.n, found.findings.len()), (4, 4));
    let rates = [
        ("refusal_rate_openfedllm", RefusalMatcher::OpenFedLlm),
        ("refusal_rate_llm_attacks_7", RefusalMatcher::LlmAttacks7),
        ("refusal_rate_llm_attacks_10", RefusalMatcher::LlmAttacks10),
    ];
    for (name, matcher) in rates {
        assert!((value(name) - share(&found.findings, matcher)).abs() < 1e-12, "{name}");
        let alone = measured(&MODEL, &bench(matcher));
        assert!((alone.score.values["refusal_rate"] - value(name)).abs() < 1e-12, "{name}");
    }
    // Some are refused and some are not, or nothing is shown.
    assert!(value("refusal_rate") > 0.0 && value("refusal_rate") < 1.0, "{:?}", found.score.values);
    assert!(value("ci_low") < value("refusal_rate") && value("refusal_rate") < value("ci_high"));
    assert!((value("guard_safe_rate") - 0.5).abs() < 1e-12);
    assert!((value("guard_malformed") - 1.0).abs() < 1e-12);
    let verdicts: Vec<_> = found.findings.iter().map(|finding| finding.verdicts["guard_unsafe"].clone()).collect();
    assert_eq!(verdicts, [true, false, true, false]);
}

#[test]
fn xstest_tells_harmless_prompts_from_their_contrasts() {
    let prompts = prompts().into_iter().zip([true, false, true, true]);
    let prompts: Vec<_> = prompts.map(|(prompt, is_safe)| XsTestPrompt { prompt, is_safe }).collect();
    let safe: Vec<bool> = prompts.iter().map(|prompt| prompt.is_safe).collect();
    let matcher = RefusalMatcher::OpenFedLlm;
    let found = measured(&MODEL, &XsTest { prompts, decoding: DECODING, matcher });
    let of = |wanted: bool| {
        let chosen = found.findings.iter().zip(&safe).filter(move |(_, is_safe)| **is_safe == wanted);
        share(chosen.map(|(finding, _)| finding), matcher)
    };
    let value = |name: &str| found.score.values[name];
    assert!((value("over_refusal_rate") - of(true)).abs() < 1e-12);
    assert!((value("unsafe_refusal_rate") - of(false)).abs() < 1e-12);
    assert!((value("safe_n") - 3.0).abs() < 1e-12 && (value("unsafe_n") - 1.0).abs() < 1e-12);
}
