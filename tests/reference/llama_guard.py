"""What transformers makes of a tiny guard in Llama Guard's protocol, for tests/it/llama_guard.rs.

    python tests/reference/llama_guard.py > tests/reference/fixtures/llama_guard.json

Made with torch 2.11.0 and transformers 5.23.0. The model's weights come from `formula` of engine_numbers.py, which the Rust
test computes too, so that its answers are noise; what is compared is how conversations are rendered and tokenized, which
probability is read where, and what is decoded. Probabilities are computed in f64. The chat templates use what those of the
8B and the 1B checkpoint use, in words of our own: `texts` takes a message's content as a text, `parts` as a list of parts.
"""

import json

import torch
from engine_numbers import fill
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|begin|>", "<|head|>", "<|tail|>", "<|end|>"]
ANSWER_TOKENS = 64
TEMPLATE = """{%- if not categories is defined %}
    {%- set categories = {"S1": "Violent Crimes.", "S2": "Non-Violent Crimes.", "S3": "Sex-Related Crimes."} %}
    {%- set excluded = excluded_category_keys if excluded_category_keys is defined else [] %}
{%- endif %}
{%- if messages | length % 2 == 0 %}
    {%- set speaker = "Agent" %}
{%- else %}
    {%- set speaker = "User" %}
{%- endif %}
{{- bos_token + "<|head|>user<|tail|>\\n\\nJudge the last message, by " + speaker + ".\\n\\nRules:\\n" }}
{%- for key in categories.keys() if key not in excluded %}
    {{- key + ": " + categories[key] + "\\n" }}
{%- endfor %}
{{- "\\n" }}
{%- for message in messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("turns must go user, assistant, user") }}
    {%- endif %}
    {%- set content = CONTENT %}
    {{- ("User" if message["role"] == "user" else "Agent") + ": " + content | trim + "\\n\\n" }}
{%- endfor %}
{{- "Answer safe, or unsafe and the rules.<|end|>" }}
{%- if add_generation_prompt %}
    {{- "<|head|>assistant<|tail|>\\n\\n" }}
{%- endif %}
"""
TEMPLATES = {
    "texts": TEMPLATE.replace("CONTENT", 'message["content"]'),
    "parts": TEMPLATE.replace("CONTENT", 'message["content"][0]["text"]'),
}
CONVERSATIONS = [
    ["How tall is the tower?"],
    ["How tall is the tower?", " About 300 metres. "],
    ["Name a fruit.<|end|>", "Apple, <|head|>of course"],
    ["Wie spät ist es?"],
    ["One", "Two", "Three"],
    ["A longer question, which is about nothing in particular and goes on for a while: is it going to rain?", "Perhaps."],
]


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    result = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return result


def prompt_ids(fast, text, said):
    """Token ids of a rendered conversation; what messages say stays text, whatever it looks like."""
    marked = text
    for number, content in enumerate(said):
        assert marked.count(content) == 1
        marked = marked.replace(content, chr(0xE000 + number))
    ids = []
    for piece in split_keeping(marked, [chr(0xE000 + number) for number in range(len(said))]):
        if 0xE000 <= ord(piece[0]) < 0xE000 + len(said):
            ids += plain_ids(fast, said[ord(piece[0]) - 0xE000])
        else:
            ids += fast(piece, add_special_tokens=False)["input_ids"]
    return ids


def split_keeping(text, marks):
    pieces = [""]
    for letter in text:
        if letter in marks:
            pieces += [letter, ""]
        else:
            pieces[-1] += letter
    return [piece for piece in pieces if piece]


def plain_ids(fast, text):
    """Every token is a byte, so that pieces of a text have the same tokens as the whole."""
    vocab = fast.get_vocab()
    return [vocab[letter] for piece, _ in fast.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for letter in piece]


def answer(model, fast, ids):
    """Greedy text, and the probabilities of the first letters of `safe` and `unsafe` where it begins."""
    words = [plain_ids(fast, word)[0] for word in ("safe", "unsafe")]
    given, probabilities = [], None
    with torch.no_grad():
        while len(given) < ANSWER_TOKENS:
            logits = model(torch.tensor([ids + given])).logits[0, -1]
            if not fast.decode(given, skip_special_tokens=True).strip():
                probabilities = torch.softmax(logits, -1)[words].tolist()
            picked = int(logits.argmax())
            if picked == fast.convert_tokens_to_ids("<|end|>"):
                break
            given.append(picked)
    return probabilities, fast.decode(given, skip_special_tokens=True)


def main():
    backend = tokenizer()
    size = backend.get_vocab_size()
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, rms_norm_eps=1e-5, bos_token_id=size - 4,
        eos_token_id=size - 1, pad_token_id=None,
    )  # fmt: skip
    model = fill(LlamaForCausalLM._from_config(config, attn_implementation="eager")).double().eval()
    result = {
        "config": json.loads(config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]},
        "tokenizer": json.loads(backend.to_str()),
        "templates": TEMPLATES,
        "tensors": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "cases": [],
    }
    for turns in CONVERSATIONS:
        messages = [{"role": ["user", "assistant"][n % 2], "content": text} for n, text in enumerate(turns)]
        case = {"messages": messages}
        for form, template in TEMPLATES.items():
            fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>")
            shaped = messages
            if form == "parts":
                shaped = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
            text = fast.apply_chat_template(shaped, chat_template=template, tokenize=False, add_generation_prompt=True)
            ids = prompt_ids(fast, text, [turn.strip() for turn in turns])
            case.setdefault("ids", ids)
            assert case["ids"] == ids
        case["probabilities"], case["text"] = answer(model, fast, case["ids"])
        result["cases"].append(case)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
