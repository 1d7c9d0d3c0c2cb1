"""A chat template that behaves as Qwen3's, in Jinja.

Behaviours kept, because verl's token builder for `qwen3` and the agent loop rely on them: ChatML turns, the
system message first, `tool` messages shown as a user turn of `<tool_response>` blocks with neighbours merged,
reasoning dropped from turns before the last real user message, an empty think block in front of a last
assistant turn, and one in the generation prompt when `enable_thinking` is false. Tool schemas are refused: a
tool call of this project is a fenced Python block, not JSON.
"""

CHAT_TEMPLATE = r"""
{%- if tools %}{{ raise_exception('this model calls tools by fenced Python blocks, not schemas') }}{% endif %}
{%- set seen = namespace(query=messages | length - 1) %}
{%- for message in messages %}
    {%- set text = message.content or '' %}
    {%- set wrapped = text.startswith('<tool_response>') and text.endswith('</tool_response>') %}
    {%- if message.role == 'user' and not wrapped %}
        {%- set seen.query = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set role, text = message.role, message.content or '' %}
    {%- if role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' }}
        {{- '\n<tool_response>\n' + text + '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' }}
    {%- elif role == 'assistant' %}
        {%- set thought = message.reasoning_content or '' %}
        {%- if message.reasoning_content is not string and '</think>' in text %}
            {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > seen.query and (loop.last or thought) %}
            {%- set text = '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' + text + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + role + '\n' + text + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {{- '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false }}
{%- endif %}
""".strip()
