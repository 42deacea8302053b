//! What a run was begun with, and whether this program goes on with the same.

use fedward_actors::protocol::RoundId;
use serde_json::{Value, json};

use super::RunDirectory;
use crate::store::StoreError;

/// What a run shares with the one that it goes on with, beside the scenario: the places in the manifest.
const RESULTS_DEPEND_ON: [&str; 6] =
    ["/versions", "/device", "/precision", "/checksums", "/guard/version", "/judge/version"];

/// What earlier versions did not record of it.
const RECORDED_LATER: [&str; 3] = ["/checksums/measured_sha256", "/checksums/cai_sha256", "/judge"];

/// Differences that are listed.
const MOST_SHOWN: usize = 8;

/// The manifest's key for what has changed since the run began.
const RESUMED: &str = "resumed";

/// Whether a run may go on with other code than it has been computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeChange {
    /// It may not.
    Refuse,
    /// It may: somebody has said so.
    Allow,
}

impl CodeChange {
    /// Allowed, or not.
    pub const fn allowed_if(is_allowed: bool) -> Self {
        if is_allowed { Self::Allow } else { Self::Refuse }
    }
}

impl RunDirectory {
    /// Refuses a run that was begun with another scenario than `recorded`, which is as in a manifest.
    ///
    /// # Errors
    ///
    /// [`StoreError`] names keys that differ.
    pub fn check_scenario(&self, recorded: &Value) -> Result<(), StoreError> {
        let begun = self.manifest()?;
        if !begun["scenario"].is_object() {
            let problem = "holds no scenario, so that nobody knows what the run was begun with; put the file back from a copy, or \
                           choose another --out";
            return Err(StoreError::Invalid { path: self.manifest_path(), problem: problem.to_owned() });
        }
        let resolved = [&begun, recorded].map(|manifest| {
            let mut settings = manifest["scenario"].clone();
            // Assumptions are the settings in words, which another version may choose otherwise.
            settings.as_object_mut().map(|settings| settings.remove("assumptions"));
            without_base(settings)
        });
        let resolved = differences(&resolved[0], &resolved[1], "");
        if resolved.is_empty() {
            return Ok(());
        }
        // What people have written, they find again; what a key means may stand elsewhere.
        let written = [&begun, recorded].map(|manifest| without_base(manifest["written"].clone()));
        let written = if written[0].is_object() { differences(&written[0], &written[1], "") } else { Vec::new() };
        let told = if written.is_empty() { resolved } else { written };
        let problem = format!(
            "was begun with another scenario ({}); resume with what it was begun with, or choose another --out",
            first_of(&told)
        );
        Err(StoreError::Invalid { path: self.manifest_path(), problem })
    }

    /// Refuses a run that was begun with another scenario, program, model or other rows; with other code unless that is allowed.
    /// Another kind of processor is warned of.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what differs.
    pub fn check_begun_with(&self, manifest: &Value, code: CodeChange) -> Result<(), StoreError> {
        self.check_scenario(manifest)?;
        let begun = self.manifest()?;
        let other_processor = other_instructions(&begun, manifest);
        if let Some(differences) = &other_processor {
            let run = self.path().display();
            tracing::warn!(%run, %differences, "the run was begun with other instructions of the processor: results may have other bytes than an uninterrupted run's");
        }
        for pointer in RESULTS_DEPEND_ON {
            let value = |manifest: &Value| manifest.pointer(pointer).cloned().unwrap_or_default();
            let key = pointer.trim_start_matches('/').replace('/', ".");
            if let Some(difference) = differences(&value(&begun), &value(manifest), &key).first() {
                let cause = match &other_processor {
                    _ if is_unrecorded(&begun, &key, difference) => {
                        "; it was begun by an earlier version of fedward, which did not record this".to_owned()
                    }
                    Some(differences) => format!("; perhaps since the processor's instructions differ: {differences}"),
                    None => String::new(),
                };
                let problem = format!(
                    "its results would not be those of an uninterrupted run ({difference}{cause}); resume with \
                     what it was begun with, or choose another --out"
                );
                return Err(StoreError::Invalid { path: self.manifest_path(), problem });
            }
        }
        self.check_code(&manifest["code"], code)
    }

    /// Refuses a run to go on with, before anything is prepared: one of another scenario, or one that has stored rounds of other
    /// code and has not completed, unless that is allowed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what differs and how to go on.
    pub fn check_resumable(&self, recorded: &Value, code: &str, change: CodeChange) -> Result<(), StoreError> {
        self.check_scenario(recorded)?;
        let has_rounds = self.rounds().is_ok_and(|rounds| !rounds.is_empty());
        if has_rounds && !self.is_completed() { self.check_code(&code.into(), change) } else { Ok(()) }
    }

    /// Refuses a run that has stored rounds of other code than `code`, unless that is allowed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says how to go on.
    pub fn check_code(&self, code: &Value, change: CodeChange) -> Result<(), StoreError> {
        let begun = last_code(&self.manifest()?).clone();
        if begun == *code || change == CodeChange::Allow {
            return Ok(());
        }
        let problem = format!(
            "the run was computed by another build of fedward (code was {}, is {}), and what this one computes may differ; \
             go on with that build, or with --allow-code-change, or choose another --out",
            in_words(&begun),
            in_words(code)
        );
        Err(StoreError::Invalid { path: self.manifest_path(), problem })
    }

    /// Puts into the manifest that the run goes on after `round` with other code or instructions than before, if it does.
    pub(super) fn record_change(&self, manifest: &Value, round: RoundId) -> Result<(), StoreError> {
        let mut begun = self.manifest()?;
        let is_same =
            *last_code(&begun) == manifest["code"] && last_instructions(&begun) == last_instructions(manifest);
        if is_same {
            return Ok(());
        }
        let change = json!({"after_round": round, "code": manifest["code"], "instructions": manifest["instructions"]});
        match begun[RESUMED].as_array_mut() {
            Some(changes) => changes.push(change),
            None => begun[RESUMED] = json!([change]),
        }
        self.write_manifest(&begun)
    }
}

/// The code that a run was computed with last.
fn last_code(manifest: &Value) -> &Value {
    manifest[RESUMED].as_array().and_then(|changes| changes.last()).map_or(&manifest["code"], |last| &last["code"])
}

/// The instructions of the processor that a run was computed with last.
fn last_instructions(manifest: &Value) -> &Value {
    let last = manifest[RESUMED].as_array().and_then(|changes| changes.last());
    last.map_or(&manifest["instructions"], |last| &last["instructions"])
}

/// Whether a difference in `key` is that an earlier version did not record what is compared.
fn is_unrecorded(begun: &Value, key: &str, difference: &str) -> bool {
    RECORDED_LATER.iter().any(|pointer| {
        let name = pointer.trim_start_matches('/').replace('/', ".");
        let is_meant = difference.starts_with(&format!("{name} was not set")) || key.starts_with(&format!("{name}."));
        is_meant && begun.pointer(pointer).is_none()
    })
}

/// How the processor's instructions differ, in words, where both are known.
fn other_instructions(begun: &Value, now: &Value) -> Option<String> {
    let (begun, now) = (last_instructions(begun), last_instructions(now));
    let found = if begun.is_null() || now.is_null() { Vec::new() } else { differences(begun, now, "") };
    (!found.is_empty()).then(|| found.join(", "))
}

/// A scenario but for whether the base model is measured, which has nothing to do with the run and can be done later.
fn without_base(mut scenario: Value) -> Value {
    let evaluation = scenario.pointer_mut("/evaluation").and_then(Value::as_object_mut);
    evaluation.map(|evaluation| evaluation.remove("base"));
    scenario
}

/// The keys whose values differ, in words.
fn differences(found: &Value, expected: &Value, key: &str) -> Vec<String> {
    // A table that is not there has no keys.
    let is_table = |value: &Value| value.is_object() || value.is_null();
    let are_equal_numbers = found.is_number() && expected.is_number() && found.as_f64() == expected.as_f64();
    if found == expected || are_equal_numbers {
        return Vec::new();
    }
    if !(is_table(found) && is_table(expected)) {
        return vec![format!("{key} was {}, is {}", in_words(found), in_words(expected))];
    }
    let names = |value| Value::as_object(value).into_iter().flat_map(|table| table.keys());
    let all: std::collections::BTreeSet<_> = names(found).chain(names(expected)).collect();
    let inside = |name: &String| {
        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        differences(&found[name], &expected[name], &key)
    };
    all.into_iter().flat_map(inside).collect()
}

/// The first of many differences: whoever reads them wants to see the end of the line, too.
fn first_of(differences: &[String]) -> String {
    let shown = &differences[..differences.len().min(MOST_SHOWN)];
    let more = differences.len() - shown.len();
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &and_more
}

fn in_words(value: &Value) -> String {
    if value.is_null() { "not set".to_owned() } else { value.to_string() }
}
