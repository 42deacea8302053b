//! Constitutional AI as a scenario asks for it.

use std::sync::Arc;

use fedward_actors::{
    ports::GuardModel,
    protocol::{ChatMessage, Role},
};

use super::{Prepared, SetupError};
use crate::{
    data,
    endpoint::{ChatEndpoint, EndpointSettings},
    model::Decoding,
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
            seed: scenario.seed,
            red_prompts: cai.red_prompts,
            decoding: decoding(cai),
            revise: cai.revise,
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
        return Ok(Material::Prepared(data::load_pairs(path)?));
    }
    let constitution = match &cai.constitution {
        Some(path) => Constitution::load(path).map_err(|error| SetupError::Other(error.to_string()))?,
        None => Constitution::default(),
    };
    let prompts = if let Some(path) = &cai.prompts {
        data::load_prompts(path)?.into_iter().map(|(_, prompt)| prompt).collect()
    } else {
        let goals = prepared.data.server_goals.iter();
        goals.map(|goal| vec![ChatMessage::new(Role::User, &goal.text)]).collect()
    };
    let teacher = cai.teacher.clone().map(|settings| teacher(settings, cai)).transpose()?;
    Ok(Material::RedPrompts { prompts, constitution, teacher })
}

fn teacher(settings: EndpointSettings, cai: &CaiSection) -> Result<Arc<dyn Speaker>, SetupError> {
    let endpoint = ChatEndpoint::new(settings).map_err(|error| SetupError::Other(format!("cai.teacher: {error}")))?;
    Ok(Arc::new(Teacher { endpoint, decoding: decoding(cai) }))
}

fn decoding(cai: &CaiSection) -> Decoding {
    Decoding { max_new_tokens: cai.max_new_tokens, temperature: cai.temperature }
}
