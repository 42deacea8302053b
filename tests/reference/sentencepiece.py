"""Tokenizers as conversions from SentencePiece have them, for tests/it/tokenizer.rs.

    python tests/reference/sentencepiece.py > tests/reference/fixtures/sentencepiece.json

Made with tokenizers 0.23.3 and transformers 5.23.0. Normalizers, pre-tokenizers, decoders and the flags of added tokens are built
as the tokenizer.json files of Llama 2 (`prepend`), Mistral (`metaspace`) and Gemma 3 (`split`) have them; the merges are learned
from a few sentences of our own. `split` has a special token beyond the model's vocabulary, as Gemma 3 has one for images, and
added tokens that are text.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CORPUS = """The river runs past the mill and the miller counts the sacks. In the morning the mist lies on the river, and in
the evening the geese come home. A good loaf needs flour, water, salt and time. Nobody counts the geese in winter. The
answer to the question is in the last line of the letter. Bread and butter, bread and cheese, bread and nothing.""".replace("\n", " ")
TEXTS = [
    "", " ", "the river", " the river", "the  river ", "  two leading", "a\nb", "a\n\nb\n\n\nc", "tab\there", "Zürich, naïve: 今日は 👍🏽",
    "1234.5 %", "the▁river", "x" * 40, "\n", "geese\n the geese", "<pad> text <b>bold</b>", "  \n  ", "the ”river“ (mill)",
]  # fmt: skip
CONVERSATIONS = [
    [("user", "Who counts the geese?")],
    [("user", " spaces "), ("assistant", "Nobody.")],
    [("user", "one"), ("assistant", "The answer is\n\nin the letter."), ("user", "bread\n"), ("assistant", " and nothing")],
    [("user", "今日は"), ("assistant", "👍🏽 ok")],
]
INSTRUCT = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""
TURNS = """{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"""
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def learned(first, merge_count):
    """A vocabulary that begins with `first`, and merges: the most frequent pair, the earlier in the alphabet if equal."""
    words = [list("▁" + word) for word in CORPUS.split()]
    vocabulary = first + BYTES + sorted({letter for word in words for letter in word})
    merges = []
    for _ in range(merge_count):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        left, right = best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        vocabulary.append(left + right)
        for word in words:
            place = 0
            while place + 1 < len(word):
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = [left + right]
                place += 1
    return {token: index for index, token in enumerate(vocabulary)}, merges


def bpe(first, special, plain=()):
    vocabulary, merges = learned(first, 120)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


def prepend():
    tokenizer = bpe(["<unk>", "<s>", "</s>"], ["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, "<s>", "</s>", INSTRUCT


def metaspace():
    control = ["[INST]", "[/INST]"]
    tokenizer = bpe(["<unk>", "<s>", "</s>"] + control, ["<unk>", "<s>", "</s>"] + control)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, "<s>", "</s>", INSTRUCT


def split():
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    plain = ["\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<b>", "</b>"]
    tokenizer = bpe(special + plain, special, plain)
    tokenizer.add_special_tokens([AddedToken("<image_soft_token>", special=True, normalized=False)])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer, "<bos>", "<end_of_turn>", TURNS


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
    for build in (prepend, metaspace, split):
        built, bos, eos, template = build()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, bos_token=bos, eos_token=eos, unk_token="<unk>")
        tokenizer.chat_template = template

        def case(text):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}

        # Text yields no special tokens here, so no text has any.
        texts = [text for text in TEXTS if "<pad>" not in text or build is not split]
        result[build.__name__] = {
            "tokenizer": json.loads(built.to_str()),
            "config": {"bos_token": bos, "eos_token": eos, "chat_template": template},
            "vocab_size": built.get_vocab_size(with_added_tokens=True) - (build is split),
            "texts": [case(text) for text in texts],
            "conversations": [conversation(tokenizer, turns) for turns in CONVERSATIONS],
        }
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(found, ensure_ascii=False)}" for name, found in result.items())
    print("{" + lines + "}")


if __name__ == "__main__":
    main()
