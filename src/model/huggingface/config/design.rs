//! What each family's configuration says of its design.

use super::{ConfigJson, LayerType, RopeParametersJson};
use crate::model::{Activation, Design, EmbeddingScale, Family, SlidingAttention, Span};

/// The window of an absent `sliding_window`.
const DEFAULT_WINDOW: Option<usize> = Some(4096);

pub(super) fn of(family: Family, json: &ConfigJson) -> Result<Design, String> {
    let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    let llama =
        Design { family, activation: activation(json, gemma)?, sliding: sliding(family, json)?, ..Design::LLAMA };
    if !gemma {
        return Ok(Design { qkv_bias: family == Family::Qwen2, query_key_norm: family == Family::Qwen3, ..llama });
    }
    let bound = |default: f64| (family == Family::Gemma2).then_some(default);
    Ok(Design {
        query_key_norm: family == Family::Gemma3,
        post_norms: true,
        norm_offset: 1.0,
        query_pre_attn_scalar: Some(json.query_pre_attn_scalar.unwrap_or(256.0)),
        embedding: EmbeddingScale::RootOfHiddenSize,
        attn_logit_softcapping: json.attn_logit_softcapping.or_default(bound(50.0)),
        final_logit_softcapping: json.final_logit_softcapping.or_default(bound(30.0)),
        ..llama
    })
}

fn activation(json: &ConfigJson, gemma: bool) -> Result<Activation, String> {
    let (key, found, allowed, activation) = if gemma {
        ("hidden_activation", &json.hidden_activation, "gelu_pytorch_tanh", Activation::GeluTanh)
    } else {
        ("hidden_act", &json.hidden_act, "silu", Activation::Silu)
    };
    match found.as_deref() {
        Some(found) if found != allowed => Err(format!("{key}: found {found:?}, allowed is {allowed:?}")),
        _ => Ok(activation),
    }
}

fn sliding(family: Family, json: &ConfigJson) -> Result<Option<SlidingAttention>, String> {
    let window = match family {
        Family::Llama => match json.sliding_window.or_default(None) {
            Some(found) => return Err(format!("sliding_window: found {found}, allowed is null")),
            None => None,
        },
        Family::Qwen2 | Family::Qwen3 if json.use_sliding_window != Some(true) => None,
        Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Gemma2 | Family::Gemma3 => {
            json.sliding_window.or_default(DEFAULT_WINDOW)
        }
    };
    let Some(window) = window else { return Ok(None) };
    let slides = |layer: usize| match family {
        Family::Llama | Family::Mistral => true,
        Family::Qwen2 | Family::Qwen3 => layer >= json.max_window_layers.unwrap_or(28),
        Family::Gemma2 => !(layer + 1).is_multiple_of(2),
        Family::Gemma3 => !(layer + 1).is_multiple_of(json.sliding_window_pattern.unwrap_or(6).max(1)),
    };
    let span = |slides: bool| if slides { Span::Sliding } else { Span::Full };
    let spans = match &json.layer_types {
        Some(types) if family != Family::Mistral => {
            types.iter().map(|kind| span(*kind == LayerType::SlidingAttention)).collect()
        }
        _ => (0..json.num_hidden_layers).map(|layer| span(slides(layer))).collect(),
    };
    Ok(Some(SlidingAttention { window, spans, rope_theta: local_theta(family, json)? }))
}

/// Gemma 3 rotates sliding layers by angles of their own.
fn local_theta(family: Family, json: &ConfigJson) -> Result<Option<f64>, String> {
    if family != Family::Gemma3 {
        return Ok(None);
    }
    let mut theta = json.rope_local_base_freq;
    if let Some(RopeParametersJson::PerKind { sliding_attention, .. }) = &json.rope_parameters {
        if sliding_attention.scaling()?.is_some() {
            return Err("rope_parameters.sliding_attention.rope_type: allowed is \"default\"".to_owned());
        }
        theta = sliding_attention.rope_theta.or(theta);
    }
    Ok(Some(theta.unwrap_or(10_000.0)))
}
