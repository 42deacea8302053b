"""Numbers that tiny models of every architecture must reproduce, computed by transformers and peft.

    python tests/reference/architectures.py > tests/reference/fixtures/architectures.json

Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2. Weights and adapters come from `formula` of engine_numbers.py,
which the Rust tests compute too. Values are computed in f64, greedy tokens in f32, and what `bf16` holds in that, as
bf16_numbers.py does. `config` is what transformers writes to config.json. Windows are far shorter than rows, so that they
matter; every model has layers of each kind that its family knows. Greedy tokens are of models with a head of their own: with
a tied one, random weights have them say their last token over and over.
"""

import copy
import json
import sys

import torch
from bf16_numbers import gradients, likelihoods as bf16_likelihoods, logits_where_exact, training
from engine_numbers import (
    ALL, adapted, fill, gradient_numbers, likelihoods, logit_numbers, small_rows, training_numbers, with_adapter,
)
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SIZES = {
    "vocab_size": 83, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 160, "rms_norm_eps": 1e-5,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
}
SPANS = ["sliding_attention", "full_attention", "sliding_attention"]


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
    "beta_fast": 4.0, "beta_slow": 1.0,
}
MODELS = {
    "llama2": LlamaConfig(**SIZES | {"num_key_value_heads": 4}, rope_parameters=plain(10000.0)),
    "mistral": MistralConfig(**SIZES, sliding_window=13, rope_parameters=plain(10000.0)),
    "mistral_full": MistralConfig(**SIZES, sliding_window=None, head_dim=12, rope_parameters=plain(1000000.0)),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=plain(1000000.0)),
    "qwen2_sliding": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=11, max_window_layers=1, rope_parameters=YARN
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=plain(1000000.0)),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=16, sliding_window=9, query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0, rope_parameters=plain(10000.0),
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=10, query_pre_attn_scalar=20, layer_types=SPANS,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 4.0},
            "sliding_attention": plain(10000.0),
        },
    ),
    "llama_yarn": LlamaConfig(**SIZES, rope_parameters=YARN | {"beta_fast": 32.0, "truncate": False}),
}  # fmt: skip
# The adapter of the ten steps, and further ones of which only the gradient is recorded.
SPECS = [
    {"rank": 3, "alpha": 6, "targets": ALL, "use_rslora": False, "b_scale": 0.2},
    {"rank": 2, "alpha": 2, "targets": ["q_proj", "v_proj"], "use_rslora": False, "b_scale": 0.3},
    {"rank": 4, "alpha": 6, "targets": ["k_proj", "o_proj", "up_proj"], "use_rslora": True, "b_scale": 0.2},
    {"rank": 1, "alpha": 3, "targets": ["gate_proj", "down_proj"], "use_rslora": False, "b_scale": 0.3},
]


def build(config):
    return fill(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


def build_bf16(config):
    """Casting a whole model would cast its rotary frequencies, too."""
    weights = build(config).state_dict()
    # The dtype is written into the config.
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.bfloat16, attn_implementation="eager")
    model.load_state_dict(weights)
    return model.eval()


def described(model):
    """What a Hugging Face directory says of a model."""
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    return {"config": config, "tensors": tensors(model)}


def greedy(config, rows):
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    model = build(config).float()
    result = []
    for row in rows:
        ids = torch.tensor([row["ids"]])
        with torch.no_grad():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=1
            )
        result.append(output[0, ids.shape[1] :].tolist())
    assert max(len(set(tokens)) for tokens in result) > 4, "tokens that many a model would say"
    return described(model) | {"tokens": result}


def in_bf16(config, exact, rows):
    model = build_bf16(config)
    found = {"logits": logits_where_exact(model, exact["logits"], rows), "log_likelihoods": bf16_likelihoods(model, rows)}
    model = with_adapter(model, SPECS[0])
    found["gradient"] = gradients(model, rows)
    return found | {"training": training(model, rows, 1e-2, 0.1, 0.5, 10)}


def tensors(model):
    """Names and shapes of the first layer and of what belongs to no layer."""
    return {
        name: list(parameter.shape) for name, parameter in model.named_parameters()
        if ".layers." not in name or ".layers.0." in name
    }


def main():
    rows = small_rows(SIZES["vocab_size"])
    result = {"rows": rows}
    for name, config in MODELS.items():
        print(name, file=sys.stderr)
        model = build(config)
        found = described(model)
        found["logits"] = [{"row": 1, "positions": logit_numbers(model, rows[1])}]
        found["greedy"] = greedy(config, rows)
        found["log_likelihoods"] = likelihoods(model, rows)
        found["bf16"] = in_bf16(config, found, rows)
        found["adapters"] = []
        for number, spec in enumerate(SPECS):
            lora = adapted(build(config), spec)
            entry = {"lora": spec, "log_likelihoods": likelihoods(lora, rows), "gradient": gradient_numbers(lora, rows)}
            if number == 0:
                entry["training"] = training_numbers(lora, rows, 1e-2, 0.1, 0.5, 10)
            else:
                entry["gradient"]["tensors"] = {tensor["name"]: tensor["norm"] for tensor in entry["gradient"]["tensors"]}
            found["adapters"].append(entry)
        result[name] = found
    lines = ",\n".join(f'"{name}":{json.dumps(found, separators=(",", ":"))}' for name, found in result.items())
    print("{" + lines + "}")


if __name__ == "__main__":
    main()
