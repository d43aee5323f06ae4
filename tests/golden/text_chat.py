"""Chat templates as transformers renders them: python text_chat.py SMOLLM2.gguf  (pip install transformers gguf jinja2)

Writes text/chat.json beside itself.
"""
import json
import pathlib
import sys

import gguf
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

FIRST_SYSTEM = """{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = 'none' -%}
    {%- set rest = messages -%}
{%- endif -%}
{{ bos_token }}[SYS]{{ system }}[/SYS]
{% for m in rest %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must take turns: user, assistant, user') }}
    {% endif %}
    {%- if m.role == 'user' %}
[U] {{ m.content.strip() }} [/U]
    {%- else %}
{{ m.content.rstrip() + eos_token }}
    {%- endif %}
{% endfor %}
"""
REASONING = """{%- set ns = namespace(last=-1, n=0) %}
{%- for m in messages[::-1] %}
    {%- set i = (messages | length - 1) - loop.index0 %}
    {%- if ns.last < 0 and m.role == "user" and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}
        {%- set ns.last = i %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{% continue %}{% endif %}
    {%- set text = m.content %}
    {%- if '</think>' in text %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' + m.role + '|>' ~ loop.index ~ '\\n' + text + ('!' if loop.index0 > ns.last else '') + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""
VALUES = """{% macro turn(m, n=1) %}{{ m['role'] | upper }}{{ n }}: {{ m | tojson }}
{% endmacro %}{% for m in messages %}
  {{ turn(m, n=loop.index) }}
  {%- if loop.last %}{{ [1, 2.5, none, true, {'a': 'é<&>"'}] | tojson }}{{ {'k': [], 'j': {}} | tojson(indent=2) }}{% endif %}
{% endfor %}
{{ strftime_now('%Y') | length }} {{ undefined_name }}|{{ messages[0].get('name', 'anon') }} {{ messages[0].tool_calls is defined }} {{ 'abc'.title() }} {{ ' a b '.split() | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
"""

reader = gguf.GGUFReader(sys.argv[1])
smollm2 = reader.fields["tokenizer.chat_template"].contents()
chatml = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def m(*turns):
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[r], "content": c} for r, c in turns]


CONVERSATIONS = [
    m(("u", "Hi")),
    m(("s", "  Be brief.\n"), ("u", "Hi\n\n"), ("a", "Hello!  "), ("u", " Who are you? ")),
    m(("u", "a"), ("u", "b")),
    m(("s", ""), ("u", "")),
    m(("u", "q"), ("a", "<think>\nhm\n</think>\n\nanswer"), ("t", "42"), ("u", "ça <b>é</b> \"x\" \\ 日本 😀"), ("a", "z")),
]
cases = []
for name, template in [("smollm2", smollm2), (None, chatml), ("first_system", FIRST_SYSTEM), ("reasoning", REASONING), ("values", VALUES)]:
    for messages in CONVERSATIONS:
        for prompt in (True, False):
            try:
                out, _ = render_jinja_template(conversations=[messages], chat_template=template, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
                result = {"text": out[0]}
            except Exception as e:
                result = {"error": str(e)}
            cases.append({"template": None if name is None else template, "messages": [[x["role"], x["content"]] for x in messages], "prompt": prompt, **result})
out = pathlib.Path(__file__).parent / "text" / "chat.json"
command = "python tests/golden/text_chat.py SMOLLM2.gguf (transformers %s)" % transformers.__version__
out.write_text(json.dumps({"command": command, "cases": cases}, ensure_ascii=True, indent=0) + "\n")
