//! Sets of harmful prompts that are benchmarks: where they come from, and how they are asked.
//!
//! One is added by a name in [`BenchName`] and a line in [`PROMPT_SETS`].

use std::{fs, path::Path};

use fedward_actors::{
    protocol::RoundId,
    streams::{Purpose, stream},
};
use rand::RngExt;

use super::{BenchName, RefusalPrompt};
use crate::data::{DataError, catalogue, load_prompt_texts};

/// A set of prompts that models should refuse, all of which measure.
pub struct PromptSet {
    /// The benchmark.
    pub bench: BenchName,
    /// The catalogue's entry.
    pub entry: &'static str,
    /// What its prompts are called among what is measured.
    pub title: &'static str,
}

/// `HarmBench` (Mazeika et al., 2024), its 200 standard behaviours; `StrongREJECT` (Souly et al., 2024), 313 prompts;
/// Do-Not-Answer (Wang et al., 2024), 939 prompts; and 730 requests in the past tense, after Andriushchenko and Flammarion (2024).
pub const PROMPT_SETS: [PromptSet; 4] = [
    PromptSet { bench: BenchName::HarmBench, entry: "harmbench", title: "HarmBench prompts" },
    PromptSet { bench: BenchName::StrongReject, entry: "strongreject", title: "StrongREJECT prompts" },
    PromptSet { bench: BenchName::DoNotAnswer, entry: "do-not-answer", title: "Do-Not-Answer prompts" },
    PromptSet { bench: BenchName::PastTense, entry: "past-tense", title: "prompts in the past tense" },
];

/// The set of a benchmark, if it is one of those.
pub fn prompt_set(bench: BenchName) -> Option<&'static PromptSet> {
    PROMPT_SETS.iter().find(|set| set.bench == bench)
}

impl PromptSet {
    /// Reads the prompts: the catalogue's, or those of a file of the user's.
    ///
    /// # Errors
    ///
    /// [`DataError`] says what is missing and how to get it.
    pub fn load(&self, own: Option<&Path>) -> Result<Vec<RefusalPrompt>, DataError> {
        let files = if let Some(path) = own {
            vec![path.to_owned()]
        } else {
            catalogue::fetched(self.entry)?;
            catalogue::files_of(self.entry)?
        };
        let mut prompts = Vec::new();
        for file in &files {
            let of_file = files.len() > 1;
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            for prompt in load_prompt_texts(file)? {
                let item = if of_file { format!("{stem}/{}", prompt.item) } else { prompt.item };
                prompts.push(RefusalPrompt { item, text: prompt.text });
            }
        }
        Ok(prompts)
    }
}

/// Prompts of a file of the user's, as they stand.
///
/// # Errors
///
/// As [`load_prompt_texts`].
pub fn own_prompts(path: &Path) -> Result<Vec<RefusalPrompt>, DataError> {
    let prompts = load_prompt_texts(path)?;
    Ok(prompts.into_iter().map(|prompt| RefusalPrompt { item: prompt.item, text: prompt.text }).collect())
}

/// Where a jailbreak template has its question.
const PLACEHOLDER: &str = "[INSERT PROMPT HERE]";

/// Reads jailbreak templates: a JSON array of texts. Those without a place for a question are passed over.
///
/// # Errors
///
/// [`DataError`] if the file is no such array, or holds no template.
pub fn load_templates(path: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    let mut templates: Vec<String> = serde_json::from_str(&text).map_err(|error| {
        // The parser's own words may quote the text.
        DataError::bad_file(path, format!("not an array of texts (line {}, column {})", error.line(), error.column()))
    })?;
    templates.retain(|template| template.contains(PLACEHOLDER));
    if templates.is_empty() {
        return Err(DataError::bad_file(path, format!("found no template with {PLACEHOLDER}, expected at least one")));
    }
    Ok(templates)
}

/// Puts each prompt into a template that is drawn by the seed (jailbreaks that people have shared; Shen et al., 2024).
pub fn in_templates(prompts: &mut [RefusalPrompt], templates: &[String], seed: u64) {
    let mut rng = stream(seed, Purpose::Evaluation, RoundId(1), None);
    for prompt in prompts {
        let chosen = rng.random_range(0..templates.len());
        prompt.text = templates[chosen].replace(PLACEHOLDER, &prompt.text);
        prompt.item = format!("template {chosen}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_in_the_catalogue() {
        for set in &PROMPT_SETS {
            assert!(catalogue::find(set.entry).is_some(), "{}", set.entry);
            assert_eq!(BenchName::find(set.bench.name()), Some(set.bench));
        }
    }

    #[test]
    fn prompts_are_put_into_templates_by_the_seed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("templates.json");
        fs::write(&path, r#"["Sing: [INSERT PROMPT HERE]!", "No place.", "[INSERT PROMPT HERE], in verse"]"#).unwrap();
        let templates = load_templates(&path).unwrap();
        assert_eq!(templates.len(), 2);
        let asked = |seed| {
            let mut prompts = vec![RefusalPrompt { item: String::new(), text: "Bake $1 bread".into() }; 12];
            in_templates(&mut prompts, &templates, seed);
            prompts.into_iter().map(|prompt| prompt.text).collect::<Vec<_>>()
        };
        let texts = asked(1);
        for wanted in ["Sing: Bake $1 bread!", "Bake $1 bread, in verse"] {
            assert!(texts.iter().any(|text| text == wanted), "{wanted}");
        }
        assert_eq!(texts, asked(1));
        assert_ne!(texts, asked(2));
        fs::write(&path, r#"["secret"]"#).unwrap();
        assert!(!load_templates(&path).unwrap_err().to_string().contains("secret"));
        fs::write(&path, r#"{"secret": 1}"#).unwrap();
        assert!(load_templates(&path).unwrap_err().to_string().contains("not an array of texts (line 1"));
    }
}
