"""What transformers and peft compute for SmolLM2 in bf16, where tests/reference/engine_numbers.py has the exact numbers.

    python tests/reference/bf16_numbers.py .fedward/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf

prints the JSON that tests/reference/fixtures/bf16.json holds. Made with torch 2.11.0, transformers 5.23.0, peft 0.21.2.
Rows, positions and adapters are those of fixtures/engine.json. As peft does by default, the adapter stays in f32 over a
base in bf16. The numbers differ a little from one processor to another: bf16 products are summed in different orders.
"""

import json
import sys
from pathlib import Path

import torch
from engine_numbers import gradient_numbers, numbers, training_numbers, with_adapter
from transformers import AutoModelForCausalLM

EXACT = json.loads((Path(__file__).parent / "fixtures" / "engine.json").read_text())["default"]


def default_model(path):
    """Weights in bf16 in plain layers: from a GGUF file transformers makes kernels that compute in f32, and casting a whole
    model would cast its rotary frequencies, too."""
    exact = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    config = exact.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    model.load_state_dict(exact.state_dict())
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    return model.eval()


def logits_where_exact(model, exact, rows):
    """The logits that the exact reference has, at its positions and for its tokens."""
    entries = []
    for entry in exact:
        with torch.no_grad():
            logits = model(torch.tensor([rows[entry["row"]]["ids"]])).logits[0].float()
        positions = []
        for position in entry["positions"]:
            line = logits[position["position"]]
            positions.append({"top": numbers(line[position["top_ids"]]), "strided": numbers(line[:: position["stride"]])})
        entries.append(positions)
    return entries


def likelihoods(model, rows):
    """As engine_numbers has it, but with the softmax in f32, as transformers' loss takes it."""
    result = []
    with torch.no_grad():
        for row in rows:
            start, ids = row["response_start"], torch.tensor(row["ids"])
            log_probabilities = model(ids[None]).logits[0].float().log_softmax(-1)
            result.append(float(log_probabilities[start - 1 : -1].gather(1, ids[start:, None]).double().sum()))
    return numbers(result)


def gradients(model, rows):
    """In the order of the exact reference."""
    return [{"norm": tensor["norm"], "samples": tensor["samples"]} for tensor in gradient_numbers(model, rows)["tensors"]]


def training(model, *arguments):
    found = training_numbers(model, *arguments)
    first = [tensor["samples"] for tensor in found["after_first_step"]]
    return {key: numbers(found[key]) for key in ("losses", "grad_norms")} | {"after_first_step": first}


def main():
    model = default_model(Path(sys.argv[1]))
    rows = EXACT["rows"]
    result = {"logits": logits_where_exact(model, EXACT["logits"], rows), "log_likelihoods": likelihoods(model, rows)}
    adapted = with_adapter(model, EXACT["all_linear"]["lora"])
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    result["all_linear"] = {
        "log_likelihoods": likelihoods(adapted, rows),
        "gradient": gradients(adapted, rows[:6]),
    }
    adapted = with_adapter(adapted.unload(), EXACT["query_value"]["lora"])
    result["query_value"] = training(adapted, rows[:6], 1e-3, 0.01, 1.0, 10)
    print(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    main()
