"""Adapters between fedward and PEFT, both ways, on a tiny random Llama.

    python tests/reference/peft_interchange.py make <directory>
        writes what tests/it/peft.rs opens: adapters saved by peft, and the SHA-256 of their numbers in fedward's order
        (tests/reference/fixtures/peft is such a directory)
    python tests/reference/peft_interchange.py make_all <directory>
        writes the same of every set of targets, with peft's logits
    python tests/reference/peft_interchange.py make_patterns <directory>
        writes adapters whose ranks, scalings or modules vary, or whose tensors have other names or types, with peft's logits and
        some numbers of scaling · B A of each module (tests/reference/fixtures/peft_patterns is such a directory)
    python tests/reference/peft_interchange.py make_others <directory>
        writes adapters that fedward must refuse, each under the name of the setting that it is refused for
    python tests/reference/peft_interchange.py check_all <directory>
        opens adapters that fedward saved for the same model; the i-th number of each is ((37 i) mod 101 - 50) / 1000
    python tests/reference/peft_interchange.py sum_of_terms <directory>
        prints the last logits of the model with all adapters in <directory>/terms active at once, and with the one in
        <directory>/stack
    python tests/reference/peft_interchange.py base <directory>
        writes the tiny model itself with a tokenizer, in shards, and the SHA-256 of its tensors

Needs torch, transformers 5 and peft.
"""

import hashlib
import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = 2


def tiny_llama():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, eos_token_id=[2, 5],
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def names_in_order(targets):
    """fedward's layout: layer by layer, in the order of the forward pass, A before B."""
    for layer in range(LAYERS):
        for target in (target for target in TARGETS if target in targets):
            block = "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            for part in "AB":
                yield f"base_model.model.model.layers.{layer}.{block}.{target}.lora_{part}.weight"


def sha256(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.float().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


# What tests/reference/fixtures/peft holds.
KEPT = {
    "all_linear": dict(r=2, lora_alpha=8, target_modules="all-linear", lora_dropout=0.05),
    "bf16": dict(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True),
    "f16": dict(r=1, lora_alpha=2, target_modules=["down_proj"], task_type="CAUSAL_LM"),
}
TOKENS = torch.arange(3, 23)


def every_subset():
    """All 127 sets of targets, with ranks (some above the layers' widths), alphas and scalings in turn."""
    for number in range(1, 2 ** len(TARGETS)):
        targets = [target for bit, target in enumerate(TARGETS) if number >> bit & 1]
        rank, alpha = (1, 2, 3, 4, 8, 16, 64)[number % 7], (1, 16, 7.5, 0.5, 32)[number % 5]
        # Each target in both ways.
        use_rslora = len(targets) % 2 == 0
        yield f"subset-{number}", dict(r=rank, lora_alpha=alpha, target_modules=targets, use_rslora=use_rslora)


def make(directory, settings=KEPT):
    expected = {}
    for name, setting in settings.items():
        config = LoraConfig(**setting)
        targets = TARGETS if config.target_modules == "all-linear" else config.target_modules
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(name, torch.float32)
        model = get_peft_model(tiny_llama(), config).eval()
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.data = torch.randn_like(parameter).mul(0.05).to(dtype)
        target = pathlib.Path(directory, name)
        model.save_pretrained(target)
        (target / "README.md").unlink()
        saved = load_file(target / "adapter_model.safetensors")
        order = list(names_in_order(targets))
        assert sorted(order) == sorted(saved), "peft's names have changed"
        expected[name] = {
            "rank": config.r,
            "alpha": config.lora_alpha,
            "dropout": config.lora_dropout,
            "targets": [target for target in TARGETS if target in targets],
            "use_rslora": config.use_rslora,
            "sha256": sha256(saved[key] for key in order),
            "numbers": sum(t.numel() for t in saved.values()),
        }
        if dtype == torch.float32:
            with torch.no_grad():
                logits = model(TOKENS[None]).logits[0, -1]
            expected[name]["logits"] = [float(f"{value:.7g}") for value in logits.tolist()[::25]]
    pathlib.Path(directory, "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def make_all(directory):
    make(directory, dict(every_subset()))


# As unsloth writes it for all linear layers.
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)
QVD = ["q_proj", "v_proj", "down_proj"]
PATTERNS = {
    "ranks": dict(r=2, target_modules=QVD, rank_pattern={"v_proj": 4, r"layers\.1\.mlp\.down_proj": 1, "nothing": 9}),
    "alphas": dict(r=2, target_modules=QVD, alpha_pattern={"0.self_attn.q_proj": 32, "q_proj": 3, ".*mlp.*": -5}),
    "both": dict(r=3, target_modules=QVD, rank_pattern={"q_proj": 1}, alpha_pattern={"q_proj": 7.5, "v_proj": 0}, use_rslora=True),
    "no_alpha": dict(r=1, lora_alpha=0, target_modules=["o_proj"], alpha_pattern={"1.self_attn.o_proj": 0}),
    "one_alpha": dict(r=2, target_modules=["o_proj"], alpha_pattern={"o_proj": 5}),
    "layer": dict(r=2, target_modules=QVD, layers_to_transform=1),
    "layers": dict(r=2, target_modules=["o_proj"], layers_to_transform=[0, 7], layers_pattern=["h", "layers"]),
    "excluded": dict(r=2, target_modules="all-linear", exclude_modules=["mlp.up_proj", "v_proj", "gate_proj", "k_proj"]),
    "excluded_by_pattern": dict(r=2, target_modules=QVD, exclude_modules=r".*\.0\..*_proj"),
    "regex": dict(r=1, target_modules=UNSLOTH),
    "lookahead": dict(r=1, target_modules=r"^(?!.*mlp).*\.(?P<name>[qk])_proj$"),
    "whole_names": dict(r=2, target_modules=["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj", "query_key_value"]),
    "turned": dict(r=2, target_modules=["o_proj"], fan_in_fan_out=True),
    "pissa": dict(r=2, target_modules=QVD, init_lora_weights="pissa", rank_pattern={"v_proj": 3}),
    "olora": dict(r=2, target_modules=["k_proj"], init_lora_weights="olora", use_rslora=True),
}  # fmt: skip
# Of the first adapter, and whether peft itself finds tensors of these names.
RENAMED = {
    "default_names": (lambda name: name.replace(".weight", ".default.weight"), True),
    "no_prefix": (lambda name: name.removeprefix("base_model.model."), False),
    "compiled": (lambda name: "_orig_mod." + name, False),
    "compiled_inside": (lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."), False),
}


def make_patterns(directory):
    directory = pathlib.Path(directory)
    expected = {}
    for name, setting in PATTERNS.items():
        target = directory / name
        model = get_peft_model(tiny_llama(), LoraConfig(**setting)).eval()
        converted = "init_lora_weights" in setting
        if converted:
            model.save_pretrained(directory / "initial")
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.data += torch.randn_like(parameter).mul(0.1)
        extra = {"path_initial_model_for_weight_conversion": str(directory / "initial")} if converted else {}
        trained = model(TOKENS[None]).logits
        model.save_pretrained(target, **extra)
        (target / "README.md").unlink()
        expected[name] = numbers_of(target)
        if converted:
            shutil.rmtree(directory / "initial")
            logits = trained[0, -1].tolist()[::25]
            assert max(abs(a - b) for a, b in zip(logits, expected[name]["logits"])) < 1e-5, f"{name}: converted wrongly"
    first = directory / "ranks"
    saved = load_file(first / "adapter_model.safetensors")
    variants = {name: {rename(key): value for key, value in saved.items()} for name, (rename, _) in RENAMED.items()}
    for name, tensors in {**variants, "f64": {key: value.double() for key, value in saved.items()}}.items():
        target = directory / name
        target.mkdir(parents=True, exist_ok=True)
        save_file({key: value.clone() for key, value in tensors.items()}, target / "adapter_model.safetensors")
        shutil.copy(first / "adapter_config.json", target)
        is_found = name not in RENAMED or RENAMED[name][1]
        assert (numbers_of(target) == expected["ranks"]) == is_found, f"{name}: peft reads these names otherwise now"
        expected[name] = expected["ranks"]
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def numbers_of(adapter):
    """Logits of the tiny model with an adapter as peft opens it, and the middle of each module's scaling · B A."""
    model = PeftModel.from_pretrained(tiny_llama(), adapter).eval()
    brief = lambda values: [float(f"{value:.7g}") for value in values]
    deltas = {
        name.removeprefix("base_model.model."): brief(module.get_delta_weight("default").flatten().tolist()[5::211])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    with torch.no_grad():
        logits = model(TOKENS[None]).logits[0, -1]
    return {"logits": brief(logits.tolist()[::25]), "deltas": deltas}


def make_others(directory):
    """Adapters of kinds that fedward has not, each under the name of the setting that it must be refused for."""
    kinds = {
        "use_dora": dict(use_dora=True),
        "modules_to_save": dict(modules_to_save=["lm_head"]),
        "bias": dict(bias="lora_only"),
        "lora_bias": dict(lora_bias=True),
        "trainable_token_indices": dict(trainable_token_indices=[1, 2]),
        "init_lora_weights": dict(init_lora_weights="pissa"),
    }
    for name, setting in kinds.items():
        config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **setting})
        get_peft_model(tiny_llama(), config).save_pretrained(pathlib.Path(directory, name))


def check_all(directory):
    reports = [check(adapter) for adapter in sorted(pathlib.Path(directory).iterdir())]
    worst = max(report["difference"] for report in reports)
    print(json.dumps({"adapters": len(reports), "numbers": sum(r["numbers"] for r in reports), "difference": worst}))


def check(adapter):
    base = tiny_llama()
    with torch.no_grad():
        plain = base(TOKENS[None]).logits
    model = PeftModel.from_pretrained(base, adapter).eval()
    config = model.peft_config["default"]
    loaded = {name.replace(".default", ""): parameter for name, parameter in model.named_parameters() if "lora_" in name}
    position = 0
    for name in names_in_order(config.target_modules):
        found = loaded.pop(name).detach()
        index = torch.arange(position, position + found.numel())
        expected = ((index * 37 % 101 - 50).float() / 1000).reshape(found.shape)
        assert torch.equal(found, expected), f"{name}: peft reads other numbers"
        position += found.numel()
    assert not loaded, f"peft has adapters that the file does not fill: {list(loaded)}"

    # The directory's name says which settings were saved.
    expected = dict(every_subset())[pathlib.Path(adapter).name]
    assert (config.r, config.lora_alpha, config.use_rslora) == (expected["r"], expected["lora_alpha"], expected["use_rslora"])
    assert config.target_modules == set(expected["target_modules"])
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    merged = tiny_llama()
    numbers = load_file(pathlib.Path(adapter, "adapter_model.safetensors"))
    for name in names_in_order(config.target_modules):
        if name.endswith("lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            weight = merged.get_parameter(stem.removeprefix("base_model.model.") + ".weight")
            weight.data += scaling * numbers[stem + ".lora_B.weight"] @ numbers[name]
    with torch.no_grad():
        adapted, reference = model(TOKENS[None]).logits, merged(TOKENS[None]).logits
    difference = (adapted - reference).abs().max().item()
    effect = (adapted - plain).abs().max().item()
    assert difference < 1e-5, f"{adapter}: logits differ by {difference} from merged weights"
    assert effect > 10 * difference, f"{adapter}: the adapter moves logits by {effect} alone"
    return {"numbers": position, "difference": difference}


def sum_of_terms(directory):
    def logits(adapters):
        model = None
        for index, adapter in enumerate(adapters):
            if model is None:
                model = PeftModel.from_pretrained(tiny_llama(), adapter, adapter_name="0").eval()
            else:
                model.load_adapter(adapter, adapter_name=str(index))
        model.base_model.set_adapter([str(index) for index in range(len(adapters))])
        with torch.no_grad():
            return model(TOKENS[None]).logits[0, -1, ::25].double().tolist()

    terms = sorted(pathlib.Path(directory, "terms").iterdir())
    print(json.dumps({"terms": logits(terms), "stack": logits([pathlib.Path(directory, "stack")])}))


def base(directory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = tiny_llama()
    model.save_pretrained(directory, max_shard_size="40KB")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<|begin|>", "<|end|>", "<pad>", "<|system|>", "<|stop|>"]
    vocabulary = {token: index for index, token in enumerate(special + alphabet + ["he", "ll", "hell", "Ġw"])}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=["<|system|>", "<|stop|>"],
    )  # fmt: skip
    fast.chat_template = (
        "{{- bos_token }}\n{%- for message in messages %}\n"
        "    {%- if message.role == 'system' %}{{ '<|system|>' + message.content | trim + '\\n' }}\n"
        "    {%- else %}{{ message['role'] + ': ' + message['content'].strip() + eos_token }}{% endif %}\n"
        "{%- endfor %}\n{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    fast.save_pretrained(directory)
    messages = [
        {"role": "system", "content": "  be kind "},
        {"role": "user", "content": " hello world\n"},
        {"role": "assistant", "content": "hell o!"},
    ]
    encode = lambda part, prompt: fast.apply_chat_template(part, add_generation_prompt=prompt, return_dict=True)["input_ids"]
    expected = {
        "messages": messages,
        "prompt_ids": encode(messages[:2], True),
        "ids": encode(messages, False),
        "tensors": {name: sha256([tensor]) for name, tensor in model.state_dict().items()},
    }
    pathlib.Path(directory, "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    commands = [make, make_all, make_patterns, make_others, check_all, sum_of_terms, base]
    {command.__name__: command for command in commands}[sys.argv[1]](sys.argv[2])
