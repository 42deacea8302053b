"""Numbers that the engine must reproduce, computed by transformers and peft.

    python tests/reference/engine_numbers.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf

writes tests/reference/fixtures/engine.json. Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2, gguf 0.19.0.
Adapters and the weights of the small models come from `formula`, which the Rust tests compute too. Values are computed
in f64 (norms and softmax stay f32 inside transformers), since transformers in f32 is itself off by 1e-5 on one processor
and by 2e-4 on another in the worst tensor of a gradient; greedy tokens are those of f32.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
# What trainings are measured on: a model and an adapter each.
TRAINED = {
    "plain": (PLAIN, {"rank": 4, "alpha": 6, "targets": ALL, "use_rslora": False, "b_scale": 0.3}),
    "untied": (
        PLAIN | {"vocab_size": 97, "num_key_value_heads": 2, "tie_word_embeddings": False},
        {"rank": 2, "alpha": 8, "targets": ["q_proj", "v_proj"], "use_rslora": False, "b_scale": 0.3},
    ),
}


def formula(name, shape):
    """Numbers in [-1, 1) from a name and an index: SplitMix64, 24 bits, exact in f32."""
    key = 1469598103934665603
    for byte in name.encode():
        key = ((key ^ byte) * 1099511628211) % 2**64
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy((2 * unit - 1).astype(np.float32).reshape(shape))


def small_weight(name, shape):
    values = formula(name, shape).double()
    if "norm" in name:
        return (1 + 0.2 * values).float()
    if "embed_tokens" in name:
        return values.float()
    if "bias" in name:
        return (0.5 * values).float()
    return (values * math.sqrt(3 / shape[1])).float()


def with_adapter(model, spec):
    lora = LoraConfig(
        r=spec["rank"],
        lora_alpha=spec["alpha"],
        lora_dropout=0.0,
        target_modules=spec["targets"],
        use_rslora=spec["use_rslora"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                canonical = name.replace(".default", "")
                scale = 1 / math.sqrt(parameter.shape[1]) if "lora_A" in name else spec["b_scale"]
                parameter.copy_((formula(canonical, tuple(parameter.shape)).double() * scale).float())
    return model


def adapted(model, spec):
    return with_adapter(model, spec).double()


def numbers(values):
    return [float(f"{float(value):.7g}") for value in values]


def samples(tensor):
    """Eight elements spread over a tensor."""
    flat = tensor.detach().flatten()
    return numbers(flat[[k * (len(flat) - 1) // 7 for k in range(8)]])


def padded(rows):
    """A batch padded on the right. Nothing before the padding sees it, so no mask is needed; with one, padding beyond a
    sliding window would attend to nothing at all, which is not a number in f64."""
    width = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for index, row in enumerate(rows):
        count = len(row["ids"])
        ids[index, :count] = torch.tensor(row["ids"])
        labels[index, row["response_start"] : count] = ids[index, row["response_start"] : count]
    return {"input_ids": ids, "labels": labels}


def logit_numbers(model, row):
    with torch.no_grad():
        logits = model(torch.tensor([row["ids"]])).logits[0]
    entries = []
    for position in (0, len(row["ids"]) // 2, len(row["ids"]) - 1):
        top = logits[position].topk(5)
        stride = max(1, logits.shape[1] // 12)
        entries.append({
            "position": position,
            "top_ids": top.indices.tolist(),
            "top": numbers(top.values),
            "stride": stride,
            "strided": numbers(logits[position][::stride]),
        })
    return entries


def likelihoods(model, rows):
    result = []
    with torch.no_grad():
        for row in rows:
            log_probabilities = model(torch.tensor([row["ids"]])).logits[0].log_softmax(-1)
            result.append(sum(
                float(log_probabilities[position - 1, row["ids"][position]])
                for position in range(max(1, row["response_start"]), len(row["ids"]))
            ))
    return numbers(result)


def features(model, row):
    with torch.no_grad():
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = base.model(torch.tensor([row["ids"]])).last_hidden_state[0]
    return numbers(hidden.mean(0)[:24])


def gradient_numbers(model, rows):
    model.zero_grad()
    loss = model(**padded(rows)).loss
    loss.backward()
    tensors = []
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            tensors.append({
                "name": name.replace(".default", ""),
                "norm": numbers([parameter.grad.norm()])[0],
                "samples": samples(parameter.grad),
            })
    return {"loss": float(loss.detach()), "tensors": tensors}


def training_numbers(model, rows, learning_rate, weight_decay, max_norm, steps):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    losses, norms, first = [], [], []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(**padded(rows)).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, max_norm)))
        optimizer.step()
        losses.append(float(loss.detach()))
        if step == 0:
            named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
            first = [{"name": name.replace(".default", ""), "samples": samples(value)} for name, value in named]
    return {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "max_grad_norm": max_norm,
        "losses": losses,
        "grad_norms": norms,
        "after_first_step": first,
    }


def greedy(model, prompt, count):
    ids = torch.tensor([prompt])
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
            eos_token_id=2, pad_token_id=2, repetition_penalty=1.0,
        )
    return output[0, len(prompt) :].tolist()


QUESTIONS = [
    ("What is the capital of France?", "The capital of France is Paris, a city on the river Seine."),
    ("Name three fruits.", "Apple, pear and plum."),
    ("How do I boil an egg? I like it soft.", "Put it into boiling water for six minutes, then rinse it with cold water."),
    ("Hi", "Hello! How can I help?"),
    ("Write one line about the sea at night.", "The sea at night breathes slowly under a quiet moon."),
    ("Which is larger, 17 or 71?", "71 is larger than 17."),
    ("Explain in two sentences why the sky is blue to a child of six years.", "Sunlight holds all colours. Air scatters blue light most, so we see blue from everywhere."),
    ("Translate 'good morning' into Spanish.", "Buenos días."),
    ("I planted tomatoes in May and the leaves turn yellow at the bottom of the plant. What can I do about it, and should I worry?", "Water evenly, remove the yellow leaves, and feed the plant; a few yellow leaves are normal."),
    ("List the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."),
]


def default_model(path):
    folder, file = str(Path(path).parent), Path(path).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager")
    model.eval()

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    rows, prompts = [], []
    for question, answer in QUESTIONS:
        prompt = encode(f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        prompts.append(prompt)
        rows.append({"ids": prompt + encode(f"{answer}<|im_end|>"), "response_start": len(prompt)})
    numbers_of = {
        "rows": rows,
        "greedy": [{"prompt": prompt, "ids": greedy(model, prompt, 32)} for prompt in prompts],
    }
    model = model.double()
    numbers_of |= {
        "logits": [{"row": row, "positions": logit_numbers(model, rows[row])} for row in (0, 3, 8)],
        "log_likelihoods": likelihoods(model, rows),
        "features": features(model, rows[0]),
    }
    spec = {"rank": 4, "alpha": 8, "targets": ALL, "use_rslora": False, "b_scale": 0.05}
    lora_model = adapted(model, spec)
    numbers_of["all_linear"] = {
        "lora": spec,
        "log_likelihoods": likelihoods(lora_model, rows),
        "gradient": gradient_numbers(lora_model, rows[:6]),
        "greedy": [greedy(lora_model.float(), prompt, 16) for prompt in prompts[:3]],
    }
    model = lora_model.unload()
    spec = {"rank": 16, "alpha": 32, "targets": ["q_proj", "v_proj"], "use_rslora": False, "b_scale": 0.01}
    lora_model = adapted(model, spec)
    numbers_of["query_value"] = {"lora": spec, "training": training_numbers(lora_model, rows[:6], 1e-3, 0.01, 1.0, 10)}
    return numbers_of


def fill(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(small_weight(name, tuple(parameter.shape)))
    return model.double().eval()


def small_rows(vocabulary):
    shared = [(7 * k + 3) % vocabulary for k in range(9)]
    rows = []
    for index, length in enumerate([31, 90, 12, 31, 57]):
        own = [int(x) for x in ((formula(f"row{index}", (length,)) + 1) / 2 * vocabulary).long().clamp(max=vocabulary - 1)]
        rows.append({"ids": (shared + own)[:length], "response_start": [10, 40, 9, 11, 30][index]})
    return rows


def small_model(config, spec):
    model = fill(LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")))
    rows = small_rows(config["vocab_size"])
    numbers_of = {"config": config, "rows": rows, "logits": [{"row": 1, "positions": logit_numbers(model, rows[1])}]}
    model = adapted(model, spec)
    numbers_of |= {
        "lora": spec,
        "log_likelihoods": likelihoods(model, rows),
        "features": features(model, rows[2]),
        "gradient": gradient_numbers(model, rows),
        "training": training_numbers(model, rows, 1e-2, 0.1, 0.5, 10),
    }
    return numbers_of


def adapted_small_model(config, spec):
    return adapted(fill(LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager"))), spec)


def write_fixture(name, result):
    out = Path(__file__).parent / "fixtures" / name
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, separators=(",", ":")))
    print(out, out.stat().st_size)


def main():
    stretched = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }
    mlp_only = ["gate_proj", "down_proj"]
    result = {
        "default": default_model(sys.argv[1]),
        "small": {
            "stretched": small_model(stretched, {"rank": 3, "alpha": 6, "targets": ALL, "use_rslora": False, "b_scale": 0.3}),
            "plain": small_model(PLAIN, {"rank": 4, "alpha": 6, "targets": ALL, "use_rslora": True, "b_scale": 0.3}),
            "mlp_only": small_model(PLAIN, {"rank": 4, "alpha": 4, "targets": mlp_only, "use_rslora": False, "b_scale": 0.3}),
        },
    }
    write_fixture("engine.json", result)


if __name__ == "__main__":
    main()
