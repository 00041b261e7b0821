"""Chat templates in the families' formats: Vicuna, ChatML, Llama 3, Mistral, and ViP-LLaVA's."""

from __future__ import annotations

_IMAGES = "message['content'] | selectattr('type', 'equalto', 'image')"
_VIDEOS = "message['content'] | selectattr('type', 'equalto', 'video')"
_TEXTS = "message['content'] | selectattr('type', 'equalto', 'text')"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    f"{{% for part in {_IMAGES} %}}{{{{ '<image>\\n' }}}}"
    "{% endfor %}"
    f"{{% for part in {_TEXTS} %}}{{{{ part['text'] + ' ' }}}}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Vicuna's."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    f"{{% for part in {_IMAGES} %}}{{{{ '<image>' }}}}{{% endfor %}}"
    f"{{% for part in {_TEXTS} %}}{{{{ '\\n' + part['text'] }}}}{{% endfor %}}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CHATML_VIDEO = CHATML.replace(
    "{{ '<image>' }}{% endfor %}",
    f"{{{{ '<image>' }}}}{{% endfor %}}{{% for part in {_VIDEOS} %}}{{{{ '<video>' }}}}{{% endfor %}}",
)
"""LLaVA-OneVision's, images first and then videos."""

VICUNA_VIDEO = CHAT_TEMPLATE.replace(
    "{{ '<image>\\n' }}{% endfor %}",
    f"{{{{ '<image>\\n' }}}}{{% endfor %}}{{% for part in {_VIDEOS} %}}{{{{ '<video>\\n' }}}}{{% endfor %}}",
)
"""LLaVA-NeXT-Video's."""

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    f"{{% for part in {_IMAGES} %}}{{{{ '<image>\\n' }}}}{{% endfor %}}"
    f"{{% for part in {_TEXTS} %}}{{{{ part['text'] | trim }}}}{{% endfor %}}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '[/INST]' }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Pixtral's, with images where they stand."""

MISTRAL_SMALL = (
    "{%- set today = strftime_now('%%') %}"
    "{%- set default_system = 'You are small. ' + today %}{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- if messages[0]['content'] is string %}{%- set system = messages[0]['content'] %}"
    "{%- else %}{%- set system = messages[0]['content'][0]['text'] %}{%- endif %}"
    "{%- set rest = messages[1:] %}{%- else %}{%- set system = default_system %}{%- set rest = messages %}{%- endif %}"
    "{{- '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}"
    "{%- for message in rest %}{%- if message['role'] == 'user' %}"
    "{%- if message['content'] is string %}{{- '[INST]' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST]' }}{%- set blocks = message['content'] %}"
    "{%- if blocks | length == 2 %}{%- set blocks = blocks | sort(attribute='type') %}{%- endif %}"
    "{%- for block in blocks %}{%- if block['type'] == 'text' %}{{- block['text'] }}"
    "{%- elif block['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}"
    "{%- else %}{{- raise_exception('only text and images') }}{%- endif %}{%- endfor %}{{- '[/INST]' }}{%- endif %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{%- if message['content'] is string %}{{- message['content'] + eos_token }}"
    "{%- else %}{{- message['content'][0]['text'] + eos_token }}{%- endif %}"
    "{%- else %}{{- raise_exception('only system, user and assistant') }}{%- endif %}{%- endfor %}"
)
"""Mistral Small 3.1's and Ministral 3's: a system prompt of its own, an image before a single text. Its date is always
`%`, so that prompts are the same on all days."""

VIP = (
    "{{ 'A chat between a curious human and an artificial intelligence assistant.' }}"
    "{% for message in messages %}"
    "{{ '###' + ('Human' if message['role'] == 'user' else 'Assistant') + ': ' }}"
    f"{{% for part in {_IMAGES} %}}{{{{ '<image>\\n' }}}}{{% endfor %}}"
    f"{{% for part in {_TEXTS} %}}{{{{ part['text'] }}}}{{% endfor %}}{{% endfor %}}"
    "{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"
)
