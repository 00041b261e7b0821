"""Oracle: transformers' own rendering, or Jinja2 set up like it where transformers is not installed. Tolerance: none."""

# ruff: noqa: E501  templates are one line each

import errno
import gc
import importlib.util
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.errors import PromptError
from pumice.prompt import template as chat_template
from pumice.prompt.template import ChatTemplate
from tests.runtime.prompt import jinja_reference
from tests.runtime.prompt.templates import TEMPLATES

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def part(text: str | None) -> dict[str, str]:
    return {"type": "image"} if text is None else {"type": "text", "text": text}


def turn(role: str, *parts: str | None) -> dict[str, Any]:
    return {"role": role, "content": [part(p) for p in parts]}


CONVERSATIONS = {
    "question": [turn("user", None, "What is this?")],
    "text only": [turn("user", "Hello")],
    "image last": [turn("user", "What is this?", None)],
    "two images": [turn("user", None, "Compare", None, "these.")],
    "two turns": [turn("user", None, "What?"), turn("assistant", "A cat."), turn("user", "And\nnow? ")],
    "system": [turn("system", "Be <b>brief</b> & 'nice'."), turn("user", None, "What?")],
    "string": [{"role": "user", "content": " What is\tthis? \n"}],
    "strings": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": " A “cat”. "},
        {"role": "user", "content": "日本語 🙂"},
    ],
    "nobody": [turn("user")],
    "wrong order": [turn("assistant", "x"), turn("assistant", "y")],
}


RENDERERS = {name: ChatTemplate(source, VARIABLES) for name, source in TEMPLATES.items()}


def reference(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return jinja_reference.render(source, messages, **{**VARIABLES, **options})
    except Exception:
        return None


def of_transformers(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template([messages], chat_template=source, **{**VARIABLES, **options})
    except Exception:
        return None
    return rendered[0]


oracle = reference if importlib.util.find_spec("transformers") is None else of_transformers


def ours(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return template.render(messages, **options)
    except PromptError:
        return None


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_as_transformers_renders_it(template: str, conversation: str, add_generation_prompt: bool) -> None:
    messages = CONVERSATIONS[conversation]
    expected = oracle(TEMPLATES[template], messages, add_generation_prompt=add_generation_prompt)
    rendered = ours(RENDERERS[template], messages, add_generation_prompt=add_generation_prompt)
    assert rendered == expected


PIECES = st.sampled_from(
    [
        "text", " ", "  ", "\n", "\n\n", "\t", "é<&>'\"",
        "{{ 'x' }}", "{{- 'x' }}", "{{ 'x' -}}", "{{ messages[0]['role'].title() }}", "{{ messages | tojson }}",
        "{# note #}", "{#- note -#}",
        "{% set y = 1 %}", "{%- set y = 2 -%}", "{{ y }}", "{{ messages | tojson(indent=2) }}",
        "{% if true %}", "{%- if messages %}", "{% if messages -%}", "{%+ if y is defined %}", "{% endif %}", "{%- endif -%}",
        "{% generation %}", "{%- generation -%}", "{% endgeneration %}", "{%- endgeneration -%}",
        "{% for i in [1, 2, 3] %}", "{% endfor %}", "{%- endfor %}", "{{ loop.index }}", "{% break %}", "{% continue %}",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(PIECES, max_size=14))
def test_white_space_and_blocks_in_any_order(pieces: list[str]) -> None:
    source, messages = "".join(pieces), CONVERSATIONS["two turns"]
    expected = oracle(source, messages)
    if expected is not None:  # what Jinja2 refuses may be refused or not
        assert ours(ChatTemplate(source, VARIABLES), messages) == expected


@pytest.mark.export_extra
def test_the_reference_renders_as_transformers_does() -> None:
    for source in (*TEMPLATES.values(), *EXPRESSIONS):
        for messages in CONVERSATIONS.values():
            assert reference(source, messages) == of_transformers(source, messages)


EXPRESSIONS = [
    "{{ 'a,b,c'.split(',')[-1] ~ ' x '.strip() ~ 'Ab'.lower() ~ 'ab'.capitalize() ~ 'a b'.title() ~ 'aXb'.replace('X', '') }}",
    "{{ 'abc'[1:] ~ 'abc'[::-1] ~ ('b' in 'abc') ~ 'abc'.startswith('a') ~ 'abc'.endswith('a') ~ 'x'.rstrip('x') ~ 'yx'.lstrip('y') }}",
    "{{ none }}{{ true }}{{ False }}{{ 1.0 }}{{ 1 / 2 }}{{ 7 // 2 }}{{ -7 % 3 }}{{ 2 ** 3 }}{{ [1, 'a', none, true] }}{{ {'a': 1.5} }}",
    "{{ missing }}|{{ messages[9] }}|{{ messages[0].missing }}|{{ missing | default('d') }}|{{ messages[0].get('role') }}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'assistant' %}"
    "{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}",
    "{% macro say(who, what='hm') -%} {{ who }}: {{ what }} {%- endmacro %}{{ say('a') }}{{ say('b', what='ok') }}",
    "{% for k, v in messages[0].items() %}{{ k }};{% endfor %}{{ messages | map(attribute='role') | list | join(', ') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | first }}",
    "{{ dict(a=1) | tojson }}{{ [3, 1] | sort | last }}{{ 'x' | upper | length }}{{ '<' | e }}{{ messages is iterable }}",
    "{{ raise_exception('no') }}",
    "{% if messages | length > 99 %}{{ raise_exception('no') }}{% endif %}fine",
    "{{ strftime_now('%Y-%m-%d') }}",
    "{% raw %}{{ not rendered }}{% endraw %}",
    "{% set x %}block {{ messages[0].role }}{% endset %}{{ x }}",
    "{% generation %}{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}",
    "line\n\n",
]  # fmt: skip


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_expressions_that_templates_use(source: str) -> None:
    messages = CONVERSATIONS["two turns"]
    assert ours(ChatTemplate(source, VARIABLES), messages) == oracle(source, messages)


HOSTILE = [
    "{% for i in range(9000) %}{% for j in range(9000) %}{% endfor %}{% endfor %}",
    "{{ range(1000000000) | length }}",
    "{{ 'x' * 1000000000 }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set x = 'a' * 1000 %}" + "{% set x = x + x %}" * 60 + "{{ x }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ (('a' * 100000) | replace('a', 'b' * 100000)) }}",
    "{{ ['a' * 100000] * 100000 | join('') }}",
    "{{ 'a' | indent(1000000000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ strftime_now('%Y' * 100000000) }}",
    "{% for i in range(90000) %}{{ range(90000) | list | sort | length }}{% endfor %}",
    "{% for i in range(90000) %}{{ 'a' * 10000 }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 50_000,
    "{% if true %}" * 50_000,
    "{{ 10 ** 100000000 }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.getcwd() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__['sys'].exit() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ tojson.__self__ }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ raise_exception('line one\nline two') }}",
    "{{ lipsum(1000000) }}",
    "{% unknown %}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_templates_are_refused_in_one_line(source: str) -> None:
    with pytest.raises(PromptError) as refused:
        ChatTemplate(source, VARIABLES).render(CONVERSATIONS["question"])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_template_that_ends_its_process_does_not_spoil_the_next_rendering() -> None:
    """`tojson` is ours: it asks for a gigabyte of blanks, whatever minijinja counts as fuel."""
    source = "{% if messages[0]['content'] == 'x' %}{{ [1] | tojson(indent=1000000000) }}{% endif %}fine"
    template = ChatTemplate(source, {})
    for _ in range(2):
        template.start()
        assert template._worker is not None
        process = template._worker._process
        with pytest.raises(PromptError, match="too much memory or time"):
            template.render([{"role": "user", "content": "x"}])
        assert process.returncode is not None
        assert template.render([{"role": "user", "content": "y"}]) == "fine"


def test_a_process_that_was_killed_does_not_spoil_the_next_rendering() -> None:
    template = ChatTemplate("fine", {})
    template.start()
    assert template._worker is not None
    os.kill(template._worker._process.pid, signal.SIGKILL)
    with pytest.raises(PromptError, match="too much memory or time"):
        template.render([])
    assert template.render([]) == "fine"


def test_a_template_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("fine", {})
    template.start()
    assert template._worker is not None
    os.kill(template._worker._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(chat_template, "TIME_LIMIT_S", 0.2)
    with pytest.raises(PromptError, match="too much memory or time"):
        template.render([])
    monkeypatch.undo()
    assert template.render([]) == "fine"


def test_the_process_ends_with_its_template() -> None:
    template = ChatTemplate("fine", {})
    template.start()
    assert template._worker is not None
    process = template._worker._process
    del template
    gc.collect()
    assert process.returncode is not None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads
def test_a_fork_renders_in_a_process_of_its_own() -> None:
    template = ChatTemplate("fine", {})
    assert template.render([]) == "fine"
    child = os.fork()
    if child == 0:
        os._exit(0 if template.render([]) == "fine" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert template.render([]) == "fine"


def test_several_threads_share_a_template() -> None:
    from concurrent.futures import ThreadPoolExecutor

    template = ChatTemplate("{{ messages[0]['content'] }}", {})
    with ThreadPoolExecutor(8) as pool:
        texts = [str(i) for i in range(200)]
        rendered = list(pool.map(lambda text: template.render([{"role": "user", "content": text}]), texts))
    assert rendered == texts


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_without_a_process_to_be_had(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    template = ChatTemplate("fine", {})
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        template.start()  # raw prompts need no process
        with pytest.raises(PromptError, match=os.strerror(code)):
            template.render([])
    assert template.render([]) == "fine"


@pytest.mark.parametrize("template", ["llava-1.5", "interleave", "vicuna"])
def test_long_conversations(template: str) -> None:
    """Steps are allowed by what is asked: 2,501 turns, and ten times as many."""
    content = [part("a")] if template != "vicuna" else "a"
    for turns in (2501, 25_001):
        messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i in range(turns)]
        assert RENDERERS[template].render(messages) == reference(
            TEMPLATES[template], messages, add_generation_prompt=True
        )


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_are_line_feeds(end: str) -> None:
    lines = [
        "{% for m in messages %}",
        "{{ m.role }}:\\r\\n",
        "",
        "  {% if true %}",
        "  x",
        "{% endif %}",
        "{% endfor %}",
        "{{ 'a",
        "b' }}",
        "",
    ]
    source, messages = end.join(lines), CONVERSATIONS["strings"]
    rendered = ChatTemplate(source, VARIABLES).render(messages)
    assert rendered == oracle(source, messages)
    assert "\r" not in rendered
    assert (
        ChatTemplate("{{ 'a\\r\\n' }}" + end, {}).render([]) == "a\r\n"
    )  # written as an escape, it is meant


def test_huge_templates_are_refused() -> None:
    with pytest.raises(PromptError, match="characters"):
        ChatTemplate("x" * 1_000_001, {})


@pytest.mark.skipif(sys.platform != "linux", reason="counts children's memory as Linux does")
def test_a_greedy_template_gets_little_memory() -> None:
    program = """
import resource
from pumice.prompt.template import ChatTemplate
from pumice.errors import PromptError
try:
    ChatTemplate("{{ [1] | tojson(indent=2000000000) }}", {}).render([])
except PromptError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100
