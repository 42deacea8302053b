//! Constitutional AI as a scenario asks for it.

use std::{path::Path, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::GuardModel,
    protocol::{ChatMessage, Role},
};

use super::{
    DataPlan, Prepared, SetupError,
    overlap::Measured,
    turns::{check_prompts, check_rows},
};
use crate::{
    data::{self, Goal, GoalUse, Place, Revision},
    endpoint::{ChatEndpoint, EndpointError, EndpointSettings},
    model::{ChatTokenizer, Decoding},
    safety::cai::{CaiGenerator, CaiSettings, Constitution, Material, Method, Speaker, Teacher},
    scenario::{CaiSection, Scenario},
};

/// The realigner of a scenario; `None` for one without Constitutional AI.
///
/// # Errors
///
/// [`SetupError`] if a file that it names cannot be used.
pub fn cai_generator(
    scenario: &Scenario,
    prepared: &Prepared,
    guard: Option<Arc<dyn GuardModel>>,
) -> Result<Option<CaiGenerator>, SetupError> {
    let Some(cai) = scenario.cai.as_ref() else { return Ok(None) };
    Ok(Some(CaiGenerator {
        model: Arc::clone(&prepared.model),
        dropout: scenario.lora.dropout,
        material: material(cai, prepared)?,
        benign: prepared.data.server_benign.clone(),
        guard,
        settings: CaiSettings {
            seed: scenario.training_seed(),
            red_prompts: cai.red_prompts,
            decoding: decoding(cai),
            revise: cai.revise,
            examples: cai.examples,
            sft_share: cai.sft_share,
            benign_share: cai.benign_share,
            max_length: scenario.training.max_length,
            effort: cai.effort,
            sft: cai.training.clone(),
            dpo: cai.dpo.clone(),
        },
        progress: Arc::clone(&prepared.progress),
    }))
}

fn material(cai: &CaiSection, prepared: &Prepared) -> Result<Material, SetupError> {
    let prompts = match &prepared.data.cai {
        CaiSource::Prepared(revisions) => return Ok(Material::Prepared(revisions.iter().cloned().collect())),
        CaiSource::Prompts(prompts) => prompts.clone(),
        CaiSource::Goals => {
            let prompt = |goal: &Goal| vec![ChatMessage::new(Role::User, &goal.text)];
            prepared.data.goals.of(GoalUse::RedPrompts).iter().map(prompt).collect()
        }
    };
    if cai.method == Method::Refusals {
        return Ok(Material::Refusals { prompts });
    }
    let constitution = match &cai.constitution {
        Some(path) => Constitution::load(path).map_err(|error| SetupError::Other(error.to_string()))?,
        None => Constitution::default(),
    };
    let teacher = cai.teacher.as_ref().map(|settings| teacher(settings, cai)).transpose()?;
    Ok(Material::RedPrompts { prompts, constitution, teacher })
}

/// What Constitutional AI begins with.
pub(super) enum CaiSource {
    /// The server's goals.
    Goals,
    /// Red prompts of a file.
    Prompts(Vec<Vec<ChatMessage>>),
    /// What has been made of red prompts before.
    Prepared(Vec<(Place, Revision)>),
}

impl CaiSource {
    /// Reads the file that a scenario names, if it names one, without what is measured with.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if it cannot be read or trained on, or if the model's chat template does not take what is in it.
    pub(super) fn read(
        scenario: &Scenario,
        tokenizer: &ChatTokenizer,
        measured: &mut Measured,
    ) -> Result<Self, SetupError> {
        let Some(cai) = &scenario.cai else { return Ok(Self::Goals) };
        if let Some(path) = &cai.data {
            return prepared_revisions(path, cai.sft_share, tokenizer, measured).map(Self::Prepared);
        }
        let Some(path) = &cai.prompts else { return Ok(Self::Goals) };
        let mut prompts = Vec::new();
        for file in data::catalogue::prompt_files(path)? {
            let read = data::load_prompts(&file)?;
            check_prompts(&read, &file, tokenizer)?;
            prompts.extend(read.into_iter().map(|record| record.meaning));
        }
        Ok(Self::Prompts(measured.sift(("cai.prompts", path), prompts, |prompt: &Vec<_>| vec![prompt])?))
    }
}

/// Refuses a teacher that does not answer, or more red prompts than there are to draw from, before anything is computed.
pub(super) fn check(scenario: &Scenario, data: &DataPlan, cancel: &CancelFlag) -> Result<(), SetupError> {
    let Some(cai) = &scenario.cai else { return Ok(()) };
    let found = match &data.cai {
        CaiSource::Prepared(_) => return Ok(()),
        CaiSource::Prompts(prompts) => prompts.len(),
        CaiSource::Goals => data.goals.of(GoalUse::RedPrompts).len(),
    };
    if let Some(settings) = cai.teacher.as_ref().filter(|_| cai.method == Method::Constitutional) {
        endpoint(settings)?.greet(cancel).map_err(|error| of_teacher(&error))?;
    }
    if found >= cai.red_prompts {
        return Ok(());
    }
    let of_prompts = data.overlaps.iter().find(|overlap| overlap.key == "cai.prompts");
    let left_out = of_prompts.map(|overlap| format!("; {overlap}")).unwrap_or_default();
    Err(SetupError::Other(format!(
        "cai.red_prompts: found {}, but there are {found} to draw from; allowed: 1 to {found}, or a file with more in \
         cai.prompts{left_out}",
        cai.red_prompts
    )))
}

fn prepared_revisions(
    path: &Path,
    sft_share: f64,
    tokenizer: &ChatTokenizer,
    measured: &mut Measured,
) -> Result<Vec<(Place, Revision)>, SetupError> {
    let revisions = data::load_revisions(path)?;
    let conversations = revisions
        .iter()
        .flat_map(|(place, revision)| revision.conversations().map(|conversation| (*place, conversation)));
    check_rows(conversations, path, tokenizer)?;
    let revisions = measured.sift(("cai.data", path), revisions, |(_, revision)| {
        revision.conversations().map(|row| row.messages.as_slice()).collect()
    })?;
    if sft_share > 0.0 || revisions.iter().any(|(_, revision)| matches!(revision, Revision::Pair(_))) {
        return Ok(revisions);
    }
    Err(SetupError::Other(format!(
        "cai.data: {} holds answers without a rejected one alone, and cai.sft_share = 0 fine-tunes on none; raise it, or \
         name a file with pairs",
        path.display()
    )))
}

fn teacher(settings: &EndpointSettings, cai: &CaiSection) -> Result<Arc<dyn Speaker>, SetupError> {
    Ok(Arc::new(Teacher { endpoint: endpoint(settings)?, decoding: decoding(cai) }))
}

fn endpoint(settings: &EndpointSettings) -> Result<ChatEndpoint, SetupError> {
    ChatEndpoint::new(settings.clone()).map_err(|error| of_teacher(&error))
}

fn of_teacher(error: &EndpointError) -> SetupError {
    SetupError::Other(format!("cai.teacher: {error}"))
}

fn decoding(cai: &CaiSection) -> Decoding {
    Decoding::new(cai.max_new_tokens, cai.temperature)
}
