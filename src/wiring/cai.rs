//! Constitutional AI as a scenario asks for it.

use std::{path::Path, sync::Arc};

use fedward_actors::{
    cancel::CancelFlag,
    ports::GuardModel,
    protocol::{ChatMessage, Role},
};

use super::{
    DataPlan, Prepared, SetupError,
    turns::{check_prompts, check_rows},
};
use crate::{
    data::{self, Revision},
    endpoint::{ChatEndpoint, EndpointError, EndpointSettings},
    model::{ChatTokenizer, Decoding},
    safety::cai::{CaiGenerator, CaiSettings, Constitution, Material, Speaker, Teacher},
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
        lora: scenario.lora.clone(),
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
    if let Some(path) = &cai.data {
        return Ok(Material::Prepared(data::load_revisions(path)?.into_iter().collect()));
    }
    let constitution = match &cai.constitution {
        Some(path) => Constitution::load(path).map_err(|error| SetupError::Other(error.to_string()))?,
        None => Constitution::default(),
    };
    let prompts = prompts(cai, &prepared.data)?;
    let teacher = cai.teacher.as_ref().map(|settings| teacher(settings, cai)).transpose()?;
    Ok(Material::RedPrompts { prompts, constitution, teacher })
}

/// Refuses a teacher that does not answer, red prompts that the model's chat template does not take, or more than there are to
/// draw from, and prepared data that cannot be trained on or that it does not take, before anything is computed.
pub(super) fn check(
    scenario: &Scenario,
    data: &DataPlan,
    tokenizer: &ChatTokenizer,
    cancel: &CancelFlag,
) -> Result<(), SetupError> {
    let Some(cai) = &scenario.cai else { return Ok(()) };
    if let Some(path) = &cai.data {
        return check_prepared(path, cai.sft_share, tokenizer);
    }
    if let Some(settings) = &cai.teacher {
        endpoint(settings)?.greet(cancel).map_err(|error| of_teacher(&error))?;
    }
    let found = match &cai.prompts {
        Some(path) => {
            let prompts = data::load_prompts(path)?;
            check_prompts(&prompts, path, tokenizer)?;
            prompts.len()
        }
        None => data.server_goals.len(),
    };
    if found >= cai.red_prompts {
        return Ok(());
    }
    Err(SetupError::Other(format!(
        "cai.red_prompts: found {}, but there are {found} to draw from; allowed: 1 to {found}, or a file with more in cai.prompts",
        cai.red_prompts
    )))
}

fn check_prepared(path: &Path, sft_share: f64, tokenizer: &ChatTokenizer) -> Result<(), SetupError> {
    let revisions = data::load_revisions(path)?;
    let conversations = revisions
        .iter()
        .flat_map(|(place, revision)| revision.conversations().map(|conversation| (*place, conversation)));
    check_rows(conversations, path, tokenizer)?;
    if sft_share > 0.0 || revisions.iter().any(|(_, revision)| matches!(revision, Revision::Pair(_))) {
        return Ok(());
    }
    Err(SetupError::Other(format!(
        "cai.data: {} holds answers without a rejected one alone, and cai.sft_share = 0 fine-tunes on none; raise it, or name a file \
         with pairs",
        path.display()
    )))
}

/// What red prompts are drawn from.
fn prompts(cai: &CaiSection, data: &DataPlan) -> Result<Vec<Vec<ChatMessage>>, SetupError> {
    if let Some(path) = &cai.prompts {
        return Ok(data::load_prompts(path)?.into_iter().map(|record| record.meaning).collect());
    }
    Ok(data.server_goals.iter().map(|goal| vec![ChatMessage::new(Role::User, &goal.text)]).collect())
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
