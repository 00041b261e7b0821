"""Chat templates as public checkpoints carry them."""

# ruff: noqa: E501  quoted as they are

LLAVA_15 = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

INTERLEAVE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|im_start|>' + message['role'] + '<|im_end|>\n\n'+ message['content'] | trim + '</s>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{% endif %}"
)

PIXTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\n\n" }}
        {%- else %}
            {{- "[INST]" }}
        {%- endif %}
        {%- if message["content"] is not string %}
            {%- for chunk in message["content"] %}
                {%- if chunk["type"] == "text" %}
                    {{- chunk["text"] }}
                {%- elif chunk["type"] == "image" %}
                    {{- "<image>" }}
                {%- else %}
                    {{- raise_exception("Unrecognized content type!") }}
                {%- endif %}
            {%- endfor %}
        {%- else %}
            {{- message["content"] }}
        {%- endif %}
        {{- "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {%- if message["content"] is not string %}
            {%- for chunk in message["content"] %}{{- chunk["text"] }}{%- endfor %}
            {{- eos_token }}
        {%- else %}
            {{- message["content"] + eos_token}}
        {%- endif %}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

VICUNA = """{% if messages[0]['role'] == 'system' %}
  {% set ns = namespace(first=messages[0]['content']) %}
{% else %}
  {% set ns = namespace(first="A chat between a curious human and an artificial intelligence assistant.") %}
{% endif %}
{{ ns.first }} {% for message in messages if message['role'] != 'system' %}
{% if message['role'] == 'user' %}
USER: {{ message['content'] }}
{%- elif message['role'] == 'assistant' -%}
 ASSISTANT: {{ message['content'].strip() }}</s>
{%- endif %}
{% if not loop.last %}{% continue %}{% endif %}
{% endfor %}
 ASSISTANT:
"""

SHOUTING = "{% for m in messages %}{{ m['role'] }}: {{ m['content'][0]['text'] | upper }}</s>{% endfor %}{{ messages | tojson }}"
"""Changes the words, so that whose they are cannot be told."""

TEMPLATES = {
    "llava-1.5": LLAVA_15,
    "interleave": INTERLEAVE,
    "llama-3": LLAMA_3,
    "pixtral": PIXTRAL,
    "vicuna": VICUNA,
    "shouting": SHOUTING,
}
