//! Benchmarks of refusals on the default model: what they report is what the responses and the guard's verdicts add up to.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, LazyLock, mpsc},
    thread,
};

use fedward::{
    data::{GoalSplit, MeasuredGoals},
    endpoint::{ChatEndpoint, EndpointSettings},
    eval::{
        BenchName, BenchRecipe, Finding, OwnBenchmark, OwnKind, RefusalMatcher, RefusalPrompt, RefusalRule,
        harmful::HarmfulPrompts,
        mt_bench::{Judge, JudgePrompts, MtBench, Question},
        xstest::{XsTest, XsTestPrompt},
    },
    model::{ChatModel, Decoding},
};
use fedward_actors::{
    CancelFlag,
    ports::{GuardModel, PortResult},
    protocol::{ChatRow, Verdict},
};

use serde_json::{Value, json};

use crate::support::{default_chat_model, measured};

static MODEL: LazyLock<ChatModel> = LazyLock::new(default_chat_model);

const DECODING: Decoding = Decoding::new(12, 0.0);

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

/// The share of answers that hold a string of the list, whatever the prompt holds.
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
            Verdict { is_malformed, ..Verdict::of_probability(f64::from(is_unsafe), 0.5) }
        };
        Ok(rows.iter().map(verdict).collect())
    }
}

#[test]
fn advbench_adds_up_strings_and_verdicts() {
    let bench = |matcher| HarmfulPrompts {
        id: BenchName::AdvBench.into(),
        prompts: prompts(),
        decoding: DECODING,
        rule: RefusalRule::List(matcher),
        guard: Some(Arc::new(Scripted)),
    };
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
        let own = alone.findings.iter().filter(|finding| finding.verdicts["refused"] == true).count();
        assert!((alone.score.values["refusal_rate"] - own as f64 / 4.0).abs() < 1e-12, "{name}");
    }
    // Two prompts hold strings of the list, and the model repeats at least one of them and says nothing else of the kind.
    assert!((value("refusal_rate_prompts_with_string") - 2.0).abs() < 1e-12);
    assert!(value("refusal_rate_echoed") >= 1.0);
    let echoed = 4.0 * (value("refusal_rate_openfedllm") - value("refusal_rate"));
    assert!((value("refusal_rate_echoed") - echoed).abs() < 1e-12);
    let items = found.score.items.as_ref().unwrap();
    let refused: f64 = items.scores["refused"].iter().sum();
    assert!((refused / 4.0 - value("refusal_rate")).abs() < 1e-12);
    assert_eq!(items.scores["guard_safe"], [0.0, 1.0, 0.0, 1.0]);
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
    assert!((value("over_refusal_rate_openfedllm") - of(true)).abs() < 1e-12);
    assert!((value("unsafe_refusal_rate_openfedllm") - of(false)).abs() < 1e-12);
    let items = &found.score.items.as_ref().unwrap().scores;
    let refused: f64 = items["refused"].iter().zip(&safe).filter(|(_, is_safe)| **is_safe).map(|(one, _)| one).sum();
    assert!((value("over_refusal_rate") - refused / 3.0).abs() < 1e-12);
    assert_eq!(items["prompt_safe"], [1.0, 0.0, 1.0, 1.0]);
    assert!((value("safe_n") - 3.0).abs() < 1e-12 && (value("unsafe_n") - 1.0).abs() < 1e-12);
}

fn recipe(data: BTreeMap<BenchName, std::path::PathBuf>) -> BenchRecipe {
    BenchRecipe {
        prompts: 2,
        hhh_items: 1,
        xstest_prompts: 3,
        mt_bench_questions: 1,
        split: GoalSplit::Fixed,
        data_seed: 1,
        advbench_goals: MeasuredGoals::HeldOut,
        advbench_suffix: String::new(),
        decoding: Decoding::new(2, 0.0),
        mt_bench_max_new_tokens: 2,
        matcher: RefusalMatcher::OpenFedLlm,
        seed: 1,
        data,
        judge: None,
        guard: None,
        utility_rows: Vec::new(),
        harmful_prompts: None,
    }
}

#[test]
fn a_recipe_s_suffix_goals_and_limits_reach_the_benchmark() {
    let folder = tempfile::tempdir().unwrap();
    let [goals, xstest] = ["goals.csv", "xstest.csv"].map(|name| folder.path().join(name));
    let numbered = |what: &str| (0..8).map(|n| format!("{what} {n},a,safe")).collect::<Vec<_>>().join("\n");
    fs::write(&goals, format!("goal,target,rest\n{}", numbered("Draw sheep"))).unwrap();
    fs::write(&xstest, format!("prompt,type,label\n{}", numbered("Shear sheep"))).unwrap();
    let recipe = recipe(BTreeMap::from([(BenchName::AdvBench, goals), (BenchName::XsTest, xstest)]));
    let prompts = |recipe: &BenchRecipe, name| {
        let found = measured(&MODEL, recipe.benchmark(name, &CancelFlag::new()).unwrap().as_ref());
        found.findings.into_iter().map(|finding| finding.prompt).collect::<Vec<_>>()
    };
    assert_eq!(prompts(&recipe, BenchName::XsTest).len(), 3);
    let plain = prompts(&recipe, BenchName::AdvBench);
    assert_eq!(plain.len(), 2);
    let with_stop = BenchRecipe { advbench_suffix: ".".into(), ..recipe };
    assert_eq!(prompts(&with_stop, BenchName::AdvBench), [format!("{}.", plain[0]), format!("{}.", plain[1])]);
    // A file of one's own is measured whole: nothing here trains on half of it.
    let many = BenchRecipe { prompts: 9, ..with_stop };
    assert_eq!(prompts(&many, BenchName::AdvBench).len(), 8);
}

/// The body of one request of HTTP.
fn body(stream: &TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// A judge that says the given lines, one a request; what it is asked comes out at the other end.
fn judge_that_says(lines: &'static [&'static str]) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (asked, received) = mpsc::channel();
    thread::spawn(move || {
        for line in lines {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = asked.send(body(&stream));
            let answer = json!({"choices": [{"message": {"content": line}, "finish_reason": "stop"}]}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.write_all((head + &answer).as_bytes()).unwrap();
        }
    });
    (base_url, received)
}

#[test]
fn mt_bench_shows_the_judge_the_model_s_answers_and_means_its_ratings() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = |name| {
        json!({"name": name, "system_prompt": "s", "prompt_template": "{question}|{ref_answer_1}|{answer}"}).to_string()
    };
    let prompts = [prompt("single-v1"), prompt("single-math-v1")].join("\n");
    fs::write(folder.path().join("judge_prompts.jsonl"), prompts).unwrap();
    let (base_url, received) = judge_that_says(&["Good. Rating: [[9]]", "Rating: [4.5]", "No."]);
    // One at a time, so that the judge's lines meet the answers in order.
    let settings =
        EndpointSettings { parallel: std::num::NonZeroUsize::MIN, ..EndpointSettings::new(base_url, "judge") };
    let judge =
        Judge { endpoint: ChatEndpoint::new(settings).unwrap(), prompts: JudgePrompts::load(folder.path()).unwrap() };
    let question = |id, category: &str, text: &str, reference: Option<&str>| Question {
        id,
        category: category.into(),
        text: text.into(),
        reference: reference.map(str::to_owned),
    };
    let questions = vec![
        question(1, "math", "What is two plus two?", Some("4")),
        question(2, "extraction", "Name a fruit.", Some("An apple.")),
        question(3, "coding", "Print a line.", Some("print()")),
    ];
    let bench = MtBench { questions, judge: Some(judge), max_new_tokens: 6 };
    let found = measured(&MODEL, &bench);
    assert_eq!((found.name.as_str(), found.score.n), ("mt_bench", 3));
    for (name, expected) in [
        ("rating", 6.75),
        ("rating_math", 9.0),
        ("rating_extraction", 4.5),
        ("rated", 2.0),
        ("unparsable", 1.0),
        ("judge_failures", 0.0),
    ] {
        assert!((found.score.values[name] - expected).abs() < 1e-12, "{name}: {:?}", found.score.values);
    }
    let references = ["4", "", "print()"];
    for (finding, reference) in found.findings.iter().zip(references) {
        let asked = received.recv().unwrap();
        let answer = finding.response.as_ref().unwrap();
        assert!(!answer.is_empty());
        assert_eq!(asked["messages"][1]["content"], format!("{}|{reference}|{answer}", finding.prompt));
    }
}

/// What a benchmark of one's own finds.
fn own(kind: OwnKind, text: &str, extension: &str, strings: Option<&[&str]>) -> fedward::eval::Measurement {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("mine.{extension}"));
    fs::write(&file, text).unwrap();
    let strings = strings.map(|strings| strings.iter().map(ToString::to_string).collect());
    let own = OwnBenchmark {
        name: "mine".into(),
        kind,
        file,
        refusal_strings: strings,
        prompts: Some(9),
        max_new_tokens: (kind != OwnKind::Choice).then_some(24),
    };
    let recipe = BenchRecipe { guard: Some(Arc::new(Scripted)), ..recipe(BTreeMap::new()) };
    let found = measured(&MODEL, recipe.own(&own).unwrap().as_ref());
    assert_eq!(found.name, "mine");
    found
}

#[test]
fn own_prompts_have_their_own_refusal_strings() {
    let strings = ["BANANA", "fruit"];
    let found = own(OwnKind::Refusal, &PROMPTS.join("\n"), "txt", Some(&strings));
    assert_eq!(found.score.n, 4);
    for finding in &found.findings {
        let (prompt, response) = (finding.prompt.to_lowercase(), finding.response.as_ref().unwrap().to_lowercase());
        let refuses = strings.iter().any(|string| {
            let string = string.to_lowercase();
            response.contains(&string) && !prompt.contains(&string)
        });
        assert_eq!(finding.verdicts["refused"], refuses);
    }
    // The fruit that the model names is a banana, and no other answer speaks of fruit.
    let value = |name: &str| found.score.values[name];
    assert!((value("refusal_rate") - 0.25).abs() < 1e-12 && (value("guard_safe_rate") - 0.5).abs() < 1e-12);
    assert!((value("refusal_rate_prompts_with_string") - 1.0).abs() < 1e-12);
    let items = &found.score.items.as_ref().unwrap().scores["refused"];
    assert!((items.iter().sum::<f64>() / 4.0 - value("refusal_rate")).abs() < 1e-12);
    let by_list = own(OwnKind::Refusal, &PROMPTS.join("\n"), "txt", None);
    assert!((by_list.score.values["refusal_rate_prompts_with_string"] - 2.0).abs() < 1e-12, "by the run's list");
}

#[test]
fn numbers_are_the_last_of_responses() {
    // Whatever is true: the model says that 10 minus 3 is 2, and names no number otherwise.
    let questions = [("What is 10 minus 3?", "#### 2"), ("What is two plus two?", "4"), ("Say hello.", "1")];
    let lines = questions.map(|(question, answer)| json!({"question": question, "answer": answer}).to_string());
    let found = own(OwnKind::Exact, &lines.join("\n"), "jsonl", None);
    let right = found.findings.iter().filter(|finding| finding.verdicts["right"] == true).count();
    assert_eq!((right, found.score.n), (1, 3));
    assert!((found.score.values["accuracy"] - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(found.score.items.unwrap().scores["right"].iter().sum::<f64>().to_bits(), 1.0_f64.to_bits());
    assert!((found.score.values["without_number"] - 2.0).abs() < 1e-12, "{:?}", found.score.values);
    assert!(found.score.values["cut"] >= 1.0);
}
