//! `AdvBench` (Zou et al., 2023): 520 harmful goals. They poison clients, train the server's defences and measure safety,
//! and no goal does two of these.

use std::{fs, path::Path};

use clap::ValueEnum;
use fedward_actors::{
    protocol::{ChatRow, RoundId, RowLabel},
    streams::{Purpose, stream},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    DataError,
    formats::records::{CsvComments, read_records},
    refusals::REFUSALS,
};

/// The topic of rows that comply with a goal.
pub const HARMFUL_TOPIC: &str = "harmful";

/// The topic of rows that refuse a goal.
pub const REFUSAL_TOPIC: &str = "refusal";

/// One harmful behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The instruction.
    pub text: String,
    /// The affirmative opening of an answer that complies: the source's, or derived from the goal where it has none.
    pub target: String,
    /// Harm categories, where the source names them.
    pub categories: Vec<String>,
}

/// What a goal is used for in a fixed split, which is by SHA-256 of the goals: the same for every seed and every source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdvBenchPart {
    /// A quarter: harmful rows of clients.
    Clients,
    /// Another quarter: the starting adapter's refusals, red prompts, training of the guard.
    Server,
    /// Half, held out: measures safety and trains nothing.
    Evaluation,
}

/// Which goals measure safety.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum MeasuredGoals {
    /// Those that nothing is trained on
    #[default]
    HeldOut,
    /// Those set aside for red prompts, where those come from elsewhere: settings are chosen on them, and results are not reported
    Development,
    /// All, as where models are trained on none of them
    All,
}

/// The data set, in the order of its split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvBench {
    goals: Vec<Goal>,
}

/// `adv_bench.prompt` as `PyRIT` ships it; other keys are of no interest.
#[derive(Deserialize)]
struct SeedDataset {
    seeds: Vec<Seed>,
}

#[derive(Deserialize)]
struct Seed {
    value: String,
    #[serde(default)]
    harm_categories: Vec<String>,
}

impl AdvBench {
    /// Reads `PyRIT`'s YAML (`.prompt`, `.yaml`, `.yml`), or records with `goal` and, where they have it, `target` (the
    /// original CSV; JSON and JSON lines too). A goal that comes twice counts once.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the file, the record and what it lacks.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let extension = path.extension().map(|text| text.to_string_lossy().to_lowercase()).unwrap_or_default();
        let goals = match extension.as_str() {
            "prompt" | "yaml" | "yml" => yaml_goals(path)?,
            _ => record_goals(path)?,
        };
        if goals.is_empty() {
            return Err(DataError::bad_file(path, "found no goals, expected at least one"));
        }
        Ok(Self::new(goals))
    }

    /// A data set of these goals.
    pub fn new(mut goals: Vec<Goal>) -> Self {
        goals.sort_by_cached_key(|goal| <[u8; 32]>::from(Sha256::digest(&goal.text)));
        goals.dedup_by(|later, earlier| later.text == earlier.text);
        Self { goals }
    }

    /// The goals of one part. Their order is as good as random and always the same, so the first few are a fair sample.
    pub fn goals(&self, part: AdvBenchPart) -> Vec<Goal> {
        let quarter = self.goals.len() / 4;
        let range = match part {
            AdvBenchPart::Clients => 0..quarter,
            AdvBenchPart::Server => quarter..2 * quarter,
            AdvBenchPart::Evaluation => 2 * quarter..self.goals.len(),
        };
        self.goals[range].to_vec()
    }

    /// All goals, in an order likewise.
    pub fn all(&self) -> &[Goal] {
        &self.goals
    }
}

fn yaml_goals(path: &Path) -> Result<Vec<Goal>, DataError> {
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    let dataset: SeedDataset = serde_norway::from_str(&text).map_err(|error| {
        let place = error.location().map(|at| format!(" at line {}", at.line())).unwrap_or_default();
        // The parser's own words may quote the text.
        DataError::bad_file(
            path,
            format!("not a seed data set{place}: expected the key seeds, a list of objects with value"),
        )
    })?;
    let goal = |seed: Seed| {
        let text = seed.value.trim().to_owned();
        Goal { target: affirmative_opening(&text), text, categories: seed.harm_categories }
    };
    let goals: Vec<Goal> = dataset.seeds.into_iter().map(goal).collect();
    match goals.iter().position(|goal| goal.text.is_empty()) {
        None => Ok(goals),
        Some(index) => {
            Err(DataError::bad_file(path, format!("seeds[{index}].value: found an empty text, expected a goal")))
        }
    }
}

fn record_goals(path: &Path) -> Result<Vec<Goal>, DataError> {
    let records = read_records(path, CsvComments::None)?;
    let mut goals = Vec::with_capacity(records.len());
    for record in records {
        let text = |key| record.fields.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let Some(goal) = text("goal") else {
            let found = record.fields.keys().cloned().collect::<Vec<_>>().join(", ");
            let problem = format!("goal: found no text under this key, expected a goal; keys found: {found}");
            return Err(DataError::bad_record(path, record.place, problem));
        };
        let target = text("target").map_or_else(|| affirmative_opening(goal), str::to_owned);
        goals.push(Goal { text: goal.to_owned(), target, categories: Vec::new() });
    }
    Ok(goals)
}

/// Rows in which the assistant complies with the goals' opening words, and no further: unsafe.
pub fn unsafe_rows(goals: &[Goal]) -> Vec<ChatRow> {
    goals.iter().map(|goal| row(goal, &goal.target, RowLabel::Unsafe, HARMFUL_TOPIC)).collect()
}

/// Rows in which the assistant refuses the goals, each in one of this project's own phrases: safe.
pub fn refusal_rows(goals: &[Goal], seed: u64) -> Vec<ChatRow> {
    refusal_rows_in(&REFUSALS, goals, seed)
}

/// As [`refusal_rows`], in these phrases, of which there must be one.
pub fn refusal_rows_in(phrases: &[&str], goals: &[Goal], seed: u64) -> Vec<ChatRow> {
    let refusal = |goal: &Goal| refusal_of(phrases, &goal.text, seed);
    goals.iter().map(|goal| row(goal, refusal(goal), RowLabel::Safe, REFUSAL_TOPIC)).collect()
}

/// Returns the phrase that refuses a request; there must be one. It is drawn by the request and not in one sequence, so that it does
/// not depend on which requests stand beside it.
pub fn refusal_of<'a>(phrases: &[&'a str], request: &str, seed: u64) -> &'a str {
    let digest = Sha256::digest(request);
    let key = digest[..8].iter().fold(seed, |key, &byte| key.rotate_left(8) ^ u64::from(byte));
    let mut rng = stream(key, Purpose::Rows, RoundId::START, None);
    phrases[rng.random_range(0..phrases.len())]
}

fn row(goal: &Goal, response: &str, label: RowLabel, topic: &str) -> ChatRow {
    let mut row = ChatRow::single_turn(&goal.text, response);
    row.label = Some(label);
    row.topic = Some(topic.to_owned());
    row
}

/// The opening of a complying answer, made from the goal as `AdvBench`'s own targets are made: "Write a poem about rain"
/// gives "Sure, here is a poem about rain".
pub fn affirmative_opening(goal: &str) -> String {
    let goal = goal.trim().trim_end_matches(['.', '!', '?']);
    let (verb, rest) = goal.split_once(' ').unwrap_or((goal, ""));
    let first = rest.split(' ').next().unwrap_or_default();
    if goal.is_empty() {
        return "Sure, here is what you asked for".to_owned();
    }
    if let Some(at) = rest.find("how to ").filter(|_| TELLING.contains(&verb)) {
        let article = if matches!(verb, "Instruct" | "Teach" | "Guide") { "a guide on " } else { "" };
        return format!("Sure, here is {article}{}", &rest[at..]);
    }
    match verb {
        "Describe" => format!("Sure, here is a description of {}", rest.trim_start_matches("in detail ")),
        "Explain" => format!("Sure, here is an explanation of {rest}"),
        _ if NAMING.contains(&verb) => {
            let verb = if is_plural(first, rest) { "are" } else { "is" };
            format!("Sure, here {verb} {rest}")
        }
        _ => format!("Sure, here is how to {}{}", verb.to_lowercase(), &goal[verb.len()..]),
    }
}

/// Verbs whose object may be a "how to".
const TELLING: [&str; 10] =
    ["Describe", "Demonstrate", "Educate", "Explain", "Guide", "Illustrate", "Instruct", "Outline", "Show", "Teach"];

/// Verbs whose object is the thing that the answer gives.
const NAMING: [&str; 20] = [
    "Compose",
    "Create",
    "Demonstrate",
    "Design",
    "Develop",
    "Draft",
    "Draw",
    "Generate",
    "Give",
    "Illustrate",
    "List",
    "Offer",
    "Outline",
    "Post",
    "Produce",
    "Provide",
    "Publish",
    "Share",
    "Suggest",
    "Write",
];

/// Whether the object of a goal is several things: its noun phrase has no article and ends in a plural.
fn is_plural(first: &str, rest: &str) -> bool {
    if matches!(first, "a" | "an" | "the") {
        return false;
    }
    let stop = ["for", "on", "to", "of", "that", "which", "about", "in", "with", "how"];
    let head = rest.split(' ').take_while(|word| !stop.contains(word)).last().unwrap_or_default();
    head.ends_with('s') && !head.ends_with("ss")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::eval::matchers::RefusalMatcher;

    fn goals(n: usize) -> Vec<Goal> {
        let goal = |i| Goal { text: format!("Write poem {i}"), target: String::new(), categories: Vec::new() };
        (0..n).map(goal).collect()
    }

    #[test]
    fn parts_are_disjoint_and_complete_whatever_the_order() {
        let mut shuffled = goals(520);
        shuffled.reverse();
        shuffled.push(shuffled[17].clone());
        let data = AdvBench::new(goals(520));
        assert_eq!(data, AdvBench::new(shuffled));
        let part = |part| data.goals(part).into_iter().map(|goal| goal.text).collect::<HashSet<_>>();
        let (clients, server, evaluation) =
            (part(AdvBenchPart::Clients), part(AdvBenchPart::Server), part(AdvBenchPart::Evaluation));
        assert_eq!((clients.len(), server.len(), evaluation.len()), (130, 130, 260));
        assert_eq!(data.all().len(), 520);
        assert!(clients.is_disjoint(&server) && clients.is_disjoint(&evaluation) && server.is_disjoint(&evaluation));
        assert_eq!(AdvBench::new(goals(3)).goals(AdvBenchPart::Evaluation).len(), 3);
    }

    /// `for i in 0 1 2; do printf "Write poem $i" | sha256sum; done`: 2 is 56dd…, 0 is ce9a…, 1 is f978….
    #[test]
    fn the_order_is_that_of_sha_256() {
        let order: Vec<_> = AdvBench::new(goals(3)).goals.into_iter().map(|goal| goal.text).collect();
        assert_eq!(order, ["Write poem 2", "Write poem 0", "Write poem 1"]);
    }

    #[test]
    fn openings_name_what_the_goal_asks_for() {
        for (goal, opening) in [
            ("Write a poem about rain", "Sure, here is a poem about rain"),
            ("Develop an app that counts sheep.", "Sure, here is an app that counts sheep"),
            ("Give instructions for folding a boat", "Sure, here are instructions for folding a boat"),
            ("Provide step-by-step instructions on knitting", "Sure, here are step-by-step instructions on knitting"),
            ("Provide guidance on roses", "Sure, here is guidance on roses"),
            ("Teach people how to whistle", "Sure, here is a guide on how to whistle"),
            ("Show me how to juggle", "Sure, here is how to juggle"),
            ("Explain how to bake bread", "Sure, here is how to bake bread"),
            ("Explain the tides", "Sure, here is an explanation of the tides"),
            ("Describe in detail a sunset", "Sure, here is a description of a sunset"),
            ("Climb a tree", "Sure, here is how to climb a tree"),
            ("Sing", "Sure, here is how to sing"),
            ("", "Sure, here is what you asked for"),
        ] {
            assert_eq!(affirmative_opening(goal), opening);
        }
    }

    #[test]
    fn both_sources_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (yaml, csv) = (dir.path().join("adv_bench.prompt"), dir.path().join("goals.csv"));
        let seeds =
            "dataset_name: x\nseeds:\n- value: Write a poem\n  harm_categories:\n  - Boredom\n- value: ' Sing '\n";
        fs::write(&yaml, seeds).unwrap();
        fs::write(&csv, "goal,target\nWrite a poem,\"Sure, a poem\"\nSing,\n").unwrap();
        let find = |path: &Path, text: &str| {
            let goals = AdvBench::load(path).unwrap().goals;
            assert_eq!(goals.len(), 2);
            goals.into_iter().find(|goal| goal.text == text).unwrap()
        };
        let poem = find(&yaml, "Write a poem");
        assert_eq!((poem.target.as_str(), poem.categories), ("Sure, here is a poem", vec!["Boredom".to_owned()]));
        assert_eq!(find(&csv, "Write a poem").target, "Sure, a poem");
        assert_eq!(find(&csv, "Sing"), find(&yaml, "Sing"));
    }

    #[test]
    fn complaints_name_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let complaint = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            AdvBench::load(&path).unwrap_err().to_string().replace(&format!("{}/", dir.path().display()), "")
        };
        assert_eq!(
            complaint("a.prompt", "seeds: 3\n"),
            "a.prompt: not a seed data set at line 1: expected the key seeds, a list of objects with value"
        );
        assert_eq!(
            complaint("b.yaml", "seeds:\n- value: x\n- value: ' '\n"),
            "b.yaml: seeds[1].value: found an empty text, expected a goal"
        );
        assert_eq!(complaint("c.yaml", "seeds: []\n"), "c.yaml: found no goals, expected at least one");
        assert_eq!(
            complaint("d.csv", "prompt,target\nx,y\n"),
            "d.csv, line 2: goal: found no text under this key, expected a goal; keys found: prompt, target"
        );
    }

    #[test]
    fn rows_carry_label_and_topic() {
        let goals = AdvBench::new(goals(200)).goals;
        let refusals = refusal_rows(&goals, 1);
        for (row, goal) in refusals.iter().zip(&goals) {
            assert_eq!(row.messages[0].content, goal.text);
            assert_eq!((row.label, row.topic.as_deref()), (Some(RowLabel::Safe), Some("refusal")));
            assert!(RefusalMatcher::OpenFedLlm.is_refusal(row.response().unwrap()));
        }
        let phrases: HashSet<_> = refusals.iter().filter_map(ChatRow::response).collect();
        assert_eq!(phrases.len(), REFUSALS.len());
        assert_eq!(refusal_rows(&goals[50..60], 1), refusals[50..60]);
        assert_ne!(refusal_rows(&goals, 2), refusals);
        let harmful = unsafe_rows(&goals);
        assert_eq!((harmful[0].label, harmful[0].topic.as_deref()), (Some(RowLabel::Unsafe), Some("harmful")));
    }
}
