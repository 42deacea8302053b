"""Conversations as transformers renders them, for the unit test of src/model/chat_template.rs.

    python tests/reference/chat_templates.py > tests/reference/fixtures/chat_templates.json
        the templates below, which use what those of SmolLM2, Llama 3, Mistral, Qwen and Llama Guard use, in words of our own
    python tests/reference/chat_templates.py installed [FILE.jinja]…
        the templates that an installed trl carries (Llama 3, 3.1 and 3.2, Qwen 2.5 and 3, Gemma, Phi, SmolVLM), and of an
        installed axolotl those of Mistral (v1, v2 and v3, v3 and v7 with tekken) and Qwen 2.5, to stdout, and those of files: no
        package has Llama Guard's

Made with transformers 5.23.0, trl 1.16.0 and axolotl 0.19.0.
"""

import datetime
import importlib.util
import json
import pathlib
import re
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils


class FixedDate(datetime.datetime):
    """The one day that fedward shows to templates."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedDate

OWN = {
    "default_system": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|open|>system
You answer in short sentences.<|close|>
' }}{% endif %}{{'<|open|>' + message['role'] + '
' + message['content'] + '<|close|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|open|>assistant
' }}{% endif %}""",
    "headers_and_date": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "some day" %}
    {%- endif %}
{%- endif %}
{%- macro header(role) -%}
<|head|>{{ role }}<|tail|>{{ "\\n\\n" }}
{%- endmacro %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- header('system') }}
{{- "Today: " + date_string + "\\n" }}
{%- if tools is not none and tools %}
    {{- "Tools: " + (tools | tojson(indent=4)) + "\\n" }}
{%- endif %}
{{- system_message }}
{{- eos_token }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- header(message['role']) + (message['content'] | trim) + eos_token }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("one call at a time") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}
""",
    "alternation": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("turns must go user, assistant, user") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "<ask> " + system_message + "\\n\\n" + message["content"] + "</ask>" }}
        {%- else %}
            {{- "<ask> " + message["content"] + "</ask>" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"].strip() + eos_token }}
    {%- else %}
        {{- raise_exception("no turn of this role: " ~ message["role"]) }}
    {%- endif %}
{%- endfor %}
""",
    "last_query": """{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and message.content is string and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|open|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|open|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|close|>\\n' }}
    {%- elif message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|open|>' + message.role + '\\n' + content + '<|close|>\\n' }}
    {%- elif loop.first %}
        {{- '<|open|>system\\n' + {'text': content, 'n': messages|length, 'none': none} | tojson + '<|close|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|open|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "judge": """{% if messages|length % 2 == 0 %}{% set role = 'Agent' %}{% else %}{% set role = 'User' %}{% endif %}
{% set categories = {"A1": "Weather", "A2": "Gardening", "A3": "Music"} %}
{{ bos_token }}<|head|>user<|tail|>

Task: say whether the last '{{ role }}' message below is about one of these.

<CATEGORIES>
{% for key, name in categories.items() if key != 'A2' %}
{{ key }}: {{ name }}.
{% endfor %}
</CATEGORIES>

{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}
{% set content = message['content'] | trim | replace("\\n\\n", "\\n") %}
{{ 'User' if message['role'] == 'user' else 'Agent' }}: {{ content }}

{% endfor %}
Roles: {{ messages | map(attribute='role') | list | join(', ') }}; {{ messages | selectattr('role', 'equalto', 'user') | list | length }} by users.
Answer for the last {{ role }} message:
 - 'yes' or 'no' first.{{ eos_token }}{% if add_generation_prompt %}<|head|>assistant<|tail|>

{% endif %}""",
    "marked_generation": """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|open|>assistant\\n' }}
        {%- generation %}
        {%- set text = message.content | trim %}
        {{- text + '<|close|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|open|>' ~ message.role ~ '\\n' ~ message.content ~ '<|close|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|open|>assistant\\n' }}{% endif %}""",
}
OF_AXOLOTL = ["mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken", "qwen_25"]
OF_TRL = [
    "llama3", "llama3_1", "llama3_2", "llama3_training", "qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training",
    "qwen3_instruct_2507", "gemma", "gemma_training", "gemma3", "phi3", "phi3_5", "smolvlm", "lfm2", "glm4moe",
]  # fmt: skip
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Answer briefly."), ("user", "What is 12 + 30?")],
    [("user", "  spaces around  "), ("assistant", "\n\nleading newlines\n"), ("user", "\ttab")],
    [("system", " kind \n"), ("user", "Name \"three\" rivers & <b>one</b> lake.\n\nPlease."), ("assistant", "1. Rhine\n2. Nile"),
     ("user", "Thanks! 🙏 "), ("assistant", "<think>\nshort\n</think>\n\nYou're welcome.")],
    [("user", "今日は何曜日ですか。"), ("assistant", "月曜日です。")],
    [("assistant", "I begin."), ("user", "Do you?")],
    [("user", "one"), ("user", "two")],
]  # fmt: skip


# Templates that loop over the parts of what a message says, and show nothing of a plain text.
FOR_PARTS = {"trl/smolvlm"}


def rendered(name, template, specials, messages, add_generation_prompt):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), bos_token=specials[0], eos_token=specials[1]
    )
    tokenizer.chat_template = template
    in_parts = name in FOR_PARTS
    messages = [
        {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
        for role, content in messages
    ]
    try:
        return {"text": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)}
    except Exception as error:  # the templates' own raise_exception, and what a template cannot take
        return {"error": str(error)}


def main():
    if sys.argv[1:2] == ["installed"]:
        places = [("trl", "chat_templates", OF_TRL), ("axolotl", "utils/chat_templates/templates", OF_AXOLOTL)]
        templates = {}
        for package, folder, names in places:
            folder = pathlib.Path(importlib.util.find_spec(package).origin).parent / folder
            templates |= {f"{package}/{name}": (folder / f"{name}.jinja").read_text() for name in names}
        templates |= {path: pathlib.Path(path).read_text() for path in sys.argv[2:]}
    else:
        templates = OWN
    result = {}
    for name, template in templates.items():
        found = sorted(set(re.findall(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]", template)))
        specials = ["<|begin|>", "<|end|>"]
        cases = [
            {
                "messages": [{"role": role, "content": content} for role, content in messages],
                "add_generation_prompt": prompt,
                **rendered(name, template, specials, messages, prompt),
            }
            for messages in CONVERSATIONS
            for prompt in (True, False)
        ]
        result[name] = {"template": template, "specials": specials + found, "cases": cases}
    lines = ",\n".join(f'{json.dumps(name)}:{json.dumps(found, ensure_ascii=False)}' for name, found in result.items())
    print("{" + lines + "}")


if __name__ == "__main__":
    main()
