"""Tokenizers whose added tokens are looked for behind the normalizer (`"normalized": true`), for tests/it/tokenizer.rs.

    python tests/reference/normalized_tokens.py > tests/reference/fixtures/normalized_tokens.json

Made with tokenizers 0.23.3 and transformers 5.23.0. `lower` lowers all text, tokens included; its template writes some of them in
other cases. `prepend` is Llama 2's normalizer with the flags that early conversions of it had. `spaces` composes characters and
has tokens that take white space with them; `none` has no normalizer at all.
"""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:?!<>|/[]_▁\né"
MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("h", "i"), ("▁", "a"), ("o", "n"), ("e", "n"), ("s", "e")]
TEXTS = [
    "", "the sea", "The SEA and the Sand", " two  spaces ", "deep blue", "Deep Blue sea", "a DEEP BLUE b", "deep  blue",
    "e\u0301t\u00e9", "on the hill\nthe end", "x<y>z", "<tag>", " <TAG> x", "deep blue<tag>deep blue", "hi! the end.",
]  # fmt: skip
CONVERSATIONS = [
    [("user", "Where is the sea?")],
    [("user", " The Sea "), ("assistant", "There.")],
    [("user", "deep blue"), ("assistant", "Deep Blue <TAG>"), ("user", "<tag>the end"), ("assistant", " on")],
    [("user", "été e\u0301"), ("assistant", "")],
]


def turns(open_turn, close_turn):
    return (
        "{{ bos_token }}{% for message in messages %}{{ '" + open_turn + "' + message['role'] + '\\n' + message['content'] + '"
        + close_turn + "' }}{% endfor %}{% if add_generation_prompt %}{{ '" + open_turn + "assistant\\n' }}{% endif %}"
    )  # fmt: skip


def built(special, plain, normalizer):
    vocabulary = {token: index for index, token in enumerate(["<unk>", *LETTERS, *[a + b for a, b in MERGES]])}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True, normalized=False), *special])
    tokenizer.add_tokens(plain)
    return tokenizer


def special(content, normalized=True, **flags):
    return AddedToken(content, special=True, normalized=normalized, **flags)


def plain(content, normalized=True, **flags):
    return AddedToken(content, special=False, normalized=normalized, **flags)


CASES = {
    "lower": (
        built(
            [special("<S>"), special("<|Turn|>"), special("<|END|>"), special("<|Raw|>", normalized=False)],
            [plain("Deep Blue"), plain("<tag>", normalized=False)],
            normalizers.Lowercase(),
        ),
        ("<S>", "<|END|>", turns("<|turn|>", "<|End|><|Raw|><|raw|>")),
    ),
    "prepend": (
        built(
            [special("<s>"), special("</s>")],
            [plain("deep blue"), plain("<tag>", normalized=False)],
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ),
        ("<s>", "</s>", turns("[", "</s>")),
    ),
    "spaces": (
        built(
            [special("<s>", normalized=False), special("<|turn|>", lstrip=True, rstrip=True), special("</s>", rstrip=True)],
            [plain("deep blue", lstrip=True), plain("<tag>", rstrip=True)],
            normalizers.NFC(),
        ),
        ("<s>", "</s>", turns("<|turn|> ", " </s>\\n ")),
    ),
    "none": (
        built(
            [special("<s>"), special("<|turn|>"), special("</s>")],
            [plain("deep blue"), plain("deep", normalized=False), plain("<tag>")],
            None,
        ),
        ("<s>", "</s>", turns("<|turn|>", "</s>")),
    ),
}


def conversation(tokenizer, turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    has_response = turns[-1][0] == "assistant"
    prompt = tokenizer.apply_chat_template(
        messages[:-1] if has_response else messages, tokenize=False, add_generation_prompt=True
    )
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    return {
        "messages": messages,
        "prompt_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"],
        "ids": encoded["input_ids"],
        # What ends within the prompt is not to be predicted.
        "response_start": sum(end <= len(prompt) for _, end in encoded["offset_mapping"]) if has_response else None,
    }


def main():
    result = {}
    for name, (tokenizer, (bos, eos, template)) in CASES.items():
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token="<unk>")
        fast.chat_template = template

        def case(text):
            ids = fast(text, add_special_tokens=False)["input_ids"]
            return {"text": text, "ids": ids, "decoded": fast.decode(ids, skip_special_tokens=True)}

        result[name] = {
            "tokenizer": json.loads(fast.backend_tokenizer.to_str()),
            "config": {"bos_token": bos, "eos_token": eos, "chat_template": template},
            "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
            "texts": [case(text) for text in TEXTS],
            "conversations": [conversation(fast, turns) for turns in CONVERSATIONS],
        }
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(found, ensure_ascii=False)}" for name, found in result.items())
    print("{" + lines + "}")


if __name__ == "__main__":
    main()
