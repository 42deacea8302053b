"""Which tokens a directory names for its chat template, for tests/it/tokenizer.rs.

    python tests/reference/special_tokens.py > tests/reference/fixtures/special_tokens.json

Made with tokenizers 0.23.3 and transformers 5.23.0: tokenizer_config.json, special_tokens_map.json or both name tokens, which
tokenizer.json has among its added tokens, in its vocabulary alone, or not at all.
"""

import json
import pathlib
import tempfile

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

logging.set_verbosity_error()

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ <>|/_:.,!?\n"
ADDED = ["<unk>", "<bos>", "<eos>", "<other>"]
IN_VOCABULARY = ["<start>", "<turn>"]
TEMPLATE = (
    "{{ bos_token }}{{ '' if bos_token is defined else '!' }}{% for message in messages %}{{ turn_token }}{{ message.role }}:{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ turn_token }}assistant:{% endif %}"
)
WRITTEN_OUT = TEMPLATE.replace("{{ turn_token }}", "<turn>")
CONVERSATIONS = [[("user", "Hi")], [("user", "Who?"), ("assistant", "Me start.")]]

DECODER = {
    str(index): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    for index, token in enumerate(ADDED)
}
CASES = {
    "map alone": ({}, {"bos_token": "<bos>", "eos_token": "<eos>"}),
    "map with details": ({}, {"bos_token": {"content": "<bos>", "lstrip": False}, "eos_token": {"content": "<eos>"}}),
    "map over config": ({"bos_token": "<other>", "eos_token": "<eos>"}, {"bos_token": "<bos>"}),
    "config whole": ({"bos_token": "<other>", "eos_token": "<eos>", "added_tokens_decoder": DECODER}, {"bos_token": "<bos>"}),
    "map with null": ({"bos_token": "<bos>", "eos_token": "<eos>"}, {"bos_token": None}),
    "vocabulary alone": ({"bos_token": "<start>", "eos_token": "<eos>"}, None),
    "own name": ({"bos_token": "<bos>", "eos_token": "<eos>", "turn_token": "<turn>"}, None),
    "own name in map": ({"eos_token": "<eos>"}, {"bos_token": "<bos>", "turn_token": "<turn>"}),
    "extra tokens": ({"bos_token": "<bos>", "eos_token": "<eos>", "extra_special_tokens": {"turn_token": "<turn>"}}, None),
    "additional list": (
        {"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": ["<turn>"], "chat_template": WRITTEN_OUT},
        None,
    ),
    "additional list in map": (
        {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": WRITTEN_OUT},
        {"additional_special_tokens": ["<other>", "<turn>"]},
    ),
    "nowhere": ({"bos_token": "<nowhere>", "eos_token": "<eos>"}, None),
}


def built():
    vocabulary = {token: index for index, token in enumerate([*ADDED, *LETTERS, *IN_VOCABULARY])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    return tokenizer


def conversation(tokenizer, turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    has_response = turns[-1][0] == "assistant"
    prompt = messages[:-1] if has_response else messages
    ids = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=True)["input_ids"]
        for messages, prompt in ((prompt, True), (messages, False))
    ]
    return {
        "messages": messages,
        "prompt_ids": ids[0],
        "ids": ids[1],
        "response_start": len(ids[0]) if has_response else None,
    }


def main():
    result = {}
    for name, (config, special_tokens_map) in CASES.items():
        tokenizer = built()
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, **config}
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            tokenizer.save(str(directory / "tokenizer.json"))
            (directory / "tokenizer_config.json").write_text(json.dumps(config))
            if special_tokens_map is not None:
                (directory / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
            loaded = PreTrainedTokenizerFast.from_pretrained(directory)
            result[name] = {
                "tokenizer": json.loads(tokenizer.to_str()),
                "config": config,
                "special_tokens_map": special_tokens_map,
                "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True) + 2,
                "texts": [],
                "conversations": [conversation(loaded, turns) for turns in CONVERSATIONS],
            }
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(found, ensure_ascii=False)}" for name, found in result.items())
    print("{" + lines + "}")


if __name__ == "__main__":
    main()
