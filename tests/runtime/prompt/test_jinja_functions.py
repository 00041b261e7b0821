"""Methods, filters, tests and functions of templates. Oracle: transformers' own rendering, or Jinja2 set up like it."""

# ruff: noqa: E501  templates are one line each

import re
from pathlib import Path
from typing import Any

import jinja2.defaults
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pumice.errors import PromptError
from pumice.prompt.template import ChatTemplate
from pumice.prompt.template_source import METHODS, rewritten
from tests.runtime.prompt.test_template import oracle, ours

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "  Where is the well-known «Ærø»?\n\tAnd\r\nthe “ß”, 3 of them?  "},
    {"role": "assistant", "content": "left: right: middle"},
    {"role": "user", "content": ""},
]

OF_TEXTS = {
    "capitalize": ["{{ 'éTÉ là'.capitalize() }}"],
    "casefold": ["{{ 'Straße'.casefold() }}"],
    "center": ["{{ 'abc'.center(8) }}|", "{{ 'abc'.center(8, '=') }}", "{{ 'abc'.center(2) }}"],
    "count": ["{{ m.content.count('t') }}", "{{ 'banana'.count('an', 2) }}", "{{ [1, 2, 1].count(1) }}"],
    "endswith": ["{{ 'x.png'.endswith(('.jpg', '.png')) }}", "{{ 'abc'.endswith('b', 0, 2) }}"],
    "expandtabs": ["{{ 'a\tb'.expandtabs(4) }}"],
    "find": ["{{ 'hello'.find('l') }}", "{{ 'hello'.find('l', 3) }}", "{{ 'hello'.find('z') }}"],
    "format": ["{{ '{} {b:>4} {c[k]} {d.e}'.format(1.5, b='x', c={'k': 2}, d={'e': 3}) }}", "{{ '{!r:>6}'.format('x') }}"],
    "format_map": ["{{ '{a}-{b}'.format_map({'a': 1, 'b': 'x'}) }}"],
    "index": ["{{ 'hello'.index('l') }}", "{{ 'hello'.index('z') }}", "{{ ['a', 'b'].index('b') }}"],
    "isalnum": ["{{ 'a1'.isalnum() }}{{ 'a 1'.isalnum() }}"],
    "isalpha": ["{{ 'é'.isalpha() }}{{ ''.isalpha() }}"],
    "isascii": ["{{ 'é'.isascii() }}{{ ''.isascii() }}"],
    "isdecimal": ["{{ '12'.isdecimal() }}{{ '½'.isdecimal() }}"],
    "isdigit": ["{{ '²'.isdigit() }}{{ '½'.isdigit() }}"],
    "isidentifier": ["{{ 'a_b'.isidentifier() }}{{ '1a'.isidentifier() }}"],
    "islower": ["{{ 'aé1'.islower() }}{{ '1'.islower() }}"],
    "isnumeric": ["{{ '½'.isnumeric() }}{{ '一'.isnumeric() }}"],
    "isprintable": ["{{ 'a\n'.isprintable() }}{{ 'a'.isprintable() }}"],
    "isspace": ["{{ ' \u3000'.isspace() }}{{ ''.isspace() }}"],
    "istitle": ["{{ 'Ab Cd'.istitle() }}{{ 'AB'.istitle() }}"],
    "isupper": ["{{ 'AÉ1'.isupper() }}{{ 'Ab'.isupper() }}"],
    "join": ["{{ ', '.join(['a', 'b']) }}", "{{ '-'.join('abc') }}", "{{ ','.join([1]) }}"],
    "ljust": ["{{ 'ab'.ljust(5, '.') }}|{{ 'ab'.ljust(4) }}|"],
    "lower": ["{{ 'ΑΣ İ'.lower() }}"],
    "lstrip": ["{{ m.content.lstrip() }}", "{{ 'xxab'.lstrip('x') }}"],
    "partition": ["{{ 'a: b: c'.partition(': ') }}", "{% set a, s, b = 'k=v'.partition('=') %}{{ b }}{{ s }}{{ a }}", "{{ 'x'.partition('=')[-1] }}"],
    "removeprefix": ["{{ '<think>x'.removeprefix('<think>') }}{{ 'x'.removeprefix('y') }}"],
    "removesuffix": ["{{ 'x</s>'.removesuffix('</s>') }}{{ 'x'.removesuffix('') }}"],
    "replace": ["{{ 'aaa'.replace('a', 'b', 2) }}", "{{ m.content.replace('\n', ' ') }}", "{{ 'ab'.replace('', '-') }}"],
    "rfind": ["{{ 'hello'.rfind('l') }}{{ 'hello'.rfind('l', 0, 3) }}"],
    "rindex": ["{{ 'hello'.rindex('l') }}", "{{ 'hello'.rindex('z') }}"],
    "rjust": ["{{ '7'.rjust(3, '0') }}{{ '7'.rjust(3) }}"],
    "rpartition": ["{{ 'a: b: c'.rpartition(': ') }}", "{{ 'x'.rpartition('=') | last }}"],
    "rsplit": ["{{ 'a/b/c'.rsplit('/', 1) }}", "{{ m.content.rsplit(none, 2) }}", "{{ 'a b'.rsplit(maxsplit=1)[0] }}"],
    "rstrip": ["{{ m.content.rstrip() }}|", "{{ 'abxx'.rstrip('xb') }}"],
    "split": ["{{ m.content.split() }}", "{{ 'a,b,c'.split(',', 1) }}", "{{ 'a b c'.split(maxsplit=1) }}", "{{ 'a--b'.split(sep='-') }}"],
    "splitlines": ["{{ m.content.splitlines() }}", "{{ 'a\nb'.splitlines(keepends=true) }}"],
    "startswith": ["{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.startswith('b', 1) }}"],
    "strip": ["{{ m.content.strip() }}", "{{ '\x1f a \u3000'.strip() }}", "{{ '--a-'.strip('-') }}"],
    "swapcase": ["{{ 'aBß'.swapcase() }}"],
    "title": ["{{ \"they're bill's ǆ\".title() }}"],
    "translate": ["{{ 'abc'.translate({97: 'x', 98: none}) }}"],
    "upper": ["{{ 'straße ŉ'.upper() }}"],
    "zfill": ["{{ '-42'.zfill(6) }}{{ 'abc'.zfill(2) }}"],
    "copy": ["{{ [1, 2].copy() }}{{ {'a': 1}.copy() }}"],
}  # fmt: skip
"""Each method of texts and lists."""

FILTERS = {
    "abs": ["{{ -3 | abs }}{{ -2.5 | abs }}"],
    "attr": ["{{ m | attr('nothing') }}"],
    "batch": ["{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 'x') | list }}"],
    "capitalize": ["{{ 'hELLO wORLD' | capitalize }}"],
    "center": ["{{ 'abc' | center(9) }}|{{ 'abc' | center }}|"],
    "count": ["{{ [1, 2] | count }}"],
    "d": ["{{ missing | d('x') }}{{ '' | d('y', true) }}"],
    "default": ["{{ missing | default('x') }}{{ none | default('y') }}{{ false | default('z', boolean=true) }}"],
    "dictsort": ["{{ {'b': 1, 'A': 3, 'c': 2} | dictsort }}", "{{ {'b': 1, 'A': 3} | dictsort(true) }}", "{{ {'b': 2, 'a': 3} | dictsort(by='value', reverse=true) }}"],
    "e": ["{{ '<a b=\"c\">&' | e }}{{ \"it's\" | e | e }}"],
    "escape": ["{{ '<&>' | escape }}"],
    "filesizeformat": ["{{ 1 | filesizeformat }} {{ 13000 | filesizeformat }} {{ 13000 | filesizeformat(true) }}"],
    "first": ["{{ [1, 2] | first }}{{ 'abc' | first }}{{ [] | first }}"],
    "float": ["{{ '3.25' | float }}{{ 'x' | float }}{{ 'x' | float(2.5) }}{{ none | float }}{{ '1e3' | float }}"],
    "forceescape": ["{{ '<' | e | forceescape }}"],
    "format": ["{{ '%s: %05.1f' | format('a', 2.25) }}{{ '%(x)d' | format(x=3) }}"],
    "groupby": ["{% for role, group in messages | groupby('role') %}{{ role }}{{ group | length }}{% endfor %}"],
    "indent": ["{{ 'a\nb\n\nc' | indent }}", "{{ 'a\n\nb' | indent(2, true, true) }}", "{{ 'a\nb' | indent(width='> ') }}", "{{ 'a\n' | indent }}|{{ '' | indent }}"],
    "int": ["{{ '42' | int }}{{ '3.9' | int }}{{ 'x' | int(5) }}{{ '0x1f' | int(0, 16) }}{{ '11' | int(base=2) }}{{ none | int }}"],
    "items": ["{{ {'a': 1} | items | list }}{{ missing | items | list }}"],
    "join": ["{{ [1, 2] | join('-') }}{{ messages | join(', ', attribute='role') }}{{ 'abc' | join('.') }}"],
    "last": ["{{ [1, 2] | last }}{{ 'abc' | last }}"],
    "length": ["{{ 'héé' | length }}{{ m | length }}"],
    "list": ["{{ 'abc' | list }}{{ {'a': 1} | list }}"],
    "lower": ["{{ 'ABÇ' | lower }}"],
    "map": ["{{ messages | map(attribute='role') | map('upper') | join }}{{ ['1', 'x'] | map('int', 7) | list }}{{ [{}] | map(attribute='a', default=0) | list }}"],
    "max": ["{{ [3, 1] | max }}{{ ['a', 'B'] | max }}{{ ['a', 'B'] | max(true) }}{{ [] | max }}", "{{ [{'a': 1}, {'a': 2}] | max(attribute='a') }}"],
    "min": ["{{ [3, 1] | min }}{{ ['a', 'B'] | min(case_sensitive=true) }}{{ messages | min(attribute='role') }}"],
    "pprint": ["{{ {'b': [1, 'x', none], 'a': true} | pprint }}"],
    "random": ["{{ ['only'] | random }}"],
    "reject": ["{{ [1, 2, 3] | reject('odd') | list }}{{ [0, 1] | reject | list }}"],
    "rejectattr": ["{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list }}"],
    "replace": ["{{ 'aaa' | replace('a', 'b', 2) }}{{ 'aaa' | replace('a', 'b') }}"],
    "reverse": ["{{ 'abc' | reverse }}{{ [1, 2] | reverse | list }}"],
    "round": ["{{ 2.5 | round }} {{ 2.345 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.99 | round(1, 'floor') }} {{ 42 | round }}"],
    "safe": ["{{ '<b>' | safe }}"],
    "select": ["{{ [1, 2, 3] | select('>', 1) | list }}{{ [0, 1] | select | list }}"],
    "selectattr": ["{{ messages | selectattr('role', 'in', ['user']) | list | length }}{{ messages | selectattr('content') | list | length }}"],
    "slice": ["{{ [1, 2, 3, 4, 5] | slice(2) | list }}{{ [1, 2, 3] | slice(2, 'x') | list }}"],
    "sort": ["{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ [1, 3, 2] | sort(true) }}", "{{ messages | sort(attribute='role,content') | map(attribute='content') | list }}", "{{ ['a', 1] | sort }}"],
    "string": ["{{ [1, none, 'a'] | string }}{{ 3 | string ~ 4 }}"],
    "striptags": ["{{ '<p>a <!-- no -->\n <b>b</b></p>' | striptags }}"],
    "sum": ["{{ [1, 2] | sum }}{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ [1] | sum(start=5) }}"],
    "title": ["{{ \"they're (well) old-fashioned [x]\" | title }}"],
    "tojson": ["{{ m | tojson }}{{ [1] | tojson(indent=2) }}{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true, ensure_ascii=true) }}"],
    "trim": ["{{ m.content | trim }}{{ 'xax' | trim('x') }}{{ 'xay' | trim(chars='yx') }}{{ missing | trim }}|"],
    "truncate": ["{{ 'one two three four' | truncate(9) }}{{ 'one two three four' | truncate(9, true, '…', 0) }}{{ 'one two' | truncate(5) }}{{ 'abc ' * 90 | truncate }}", "{{ ('abc ' * 90) | truncate }}", "{{ 'abcdef' | truncate(2) }}"],
    "unique": ["{{ ['a', 'B', 'A', 'b'] | unique | list }}{{ ['a', 'A'] | unique(true) | list }}{{ messages | unique(attribute='role') | list | length }}"],
    "upper": ["{{ 'straße' | upper }}"],
    "urlencode": ["{{ 'a b/ç?' | urlencode }}{{ {'a b': 'ç/'} | urlencode }}{{ [('a', 1), ('b', 2)] | urlencode }}"],
    "wordcount": ["{{ m.content | wordcount }}{{ '' | wordcount }}"],
    "wordwrap": ["{{ 'one two threefour-five' | wordwrap(6) }}", "{{ 'threefour\nfive six' | wordwrap(5, false, '|', false) }}"],
    "xmlattr": ["<a{{ {'href': 'x\"y', 'id': none, 'n': 1} | xmlattr }}>{{ {'a': 1} | xmlattr(false) }}", "{{ {'a b': 1} | xmlattr }}"],
}  # fmt: skip

GLOBALS = {
    "cycler": ["{% set c = cycler('odd', 'even') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}", "{{ cycler() }}"],
    "dict": ["{{ dict(a=1) }}{{ dict({'a': 2}, b=3) }}{{ dict([('a', 4)]).a }}"],
    "joiner": ["{% set j = joiner('; ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}", "{% set j = joiner() %}{{ j() }}{{ j() }}"],
    "namespace": ["{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content.count('t') %}{% endfor %}{{ ns.n }}"],
    "range": ["{{ range(4) | list }}{{ range(1, 9, 3) | list }}{{ range(3, 0, -1) | list }}"],
}  # fmt: skip

TESTS = {
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
}
ABSENT = {"filters": {"urlize"}, "globals": {"lipsum"}}

FORMATTING = [
    "{{ '%s is %d' % ('a', 3) }}", "{{ '%s' % m.role }}", "{{ '%(a)s%%' % {'a': 1} }}", "{{ '%s' % [1, 'x'] }}", "{{ '%s' % ('x') }}",
    "{{ '%5.2f|%-4s|%+d|%x|%r|%c|%e' % (3.14159, 'a', 5, 255, 'q', 'x', 12.5) }}", "{{ 'no values%%' % () }}", "{{ '%d' % 'a' }}", "{{ '%s %s' % ('a',) }}",
    "{{ 'a' ~ '%s-%s' % ('x', 'y') + 'b' }}", "{{ '%s' % 3 * 2 }}", "{{ 2 * '%s,' % 3 }}", "{{ ('%s' % 'ab').upper()[0] }}", "{{ '%s' % m.role.upper()[0] ~ '!' }}",
    "{% set form = '[%s]' %}{% for m in messages %}{{ form % m.role }}{% endfor %}", "{{ ['%d' % 1, '%d' % 2] | join('%') }}", "{{ {'k': '%s' % {'a': {}}} }}",
    "{{ 7 % 3 }}{{ -7 % 3 }}{{ 5 - -7 % 3 }}{{ 17 % 10 % 4 }}{{ 17 % (10 % 4) }}{{ 2 ** 5 % 7 }}{{ 10 * 4 % 3 }}{{ 10 % 4 * 2 + 1 }}{{ 3 + 7 % 4 }}",
    "{% if (m.role == 'user') != (loop_index | default(1) % 2 == 0) %}yes{% else %}no{% endif %}", "{{ messages | length % 2 }}", "{{ 1 if 4 % 2 == 0 and not 5 % 5 else 2 }}",
]  # fmt: skip

PLACES = [
    "{%- if m.content.strip().split('?')[0].endswith('»') and not 'x'.isspace() %}a{% elif 'b'.isalpha() %}b{% endif -%} c",
    "{% for w in 'c b a'.rsplit() | sort %}{{ w.center(3, '.') }}{{ loop.index % 2 }}{% endfor %}", "{{ {'a': {'b': 'c'.upper()}}}}", "{{-'x'.zfill(3)-}}",
    "{% macro say(who, what='hm'.upper()) %}{{ who.ljust(4, '-') }}{{ what }}{% endmacro %}{{ say('a'.upper(), what='b'.zfill(2)) }}",
    "{% raw %}{{ 'a'.zfill(3) }}{% endraw %}{# {{ 'a'.zfill( #}{{ \"{{ 'a'.zfill(3) }}\" }}", "{{ 'a' 'b'.zfill(4) }}", "{{ 'a\"b'.partition('\"')[2] }}{{ 'a\\'b'.partition(\"'\")[2] }}",
    "{% filter truncate(5, true, '') %}abcdefghijklm{% endfilter %}", "{% set x | upper %}a{{ 'b'.zfill(2) }}{% endset %}{{ x }}", "{% if not'x'.isalpha() %}y{% endif %}{{ 'q'.upper() if'x'.isalpha() else'z' }}",
    "{% macro g(t) %}{{ t }}{{ caller('i') }}{% endmacro %}{% call(z) g('a'.zfill(2)) %}{{ z.zfill(3) }}{% endcall %}", "{{ 1 ~ 2 ~ '3' + '4' ~ 5 }}{{ 'n' ~ 2 * 3 }}{{ ['a' ~ 'b', 'c'] }}", "{{ 'a' if 'x' ~ 'y' == 'xy' else 'b' ~ 'c' }}", "{{ '(boolean=' | default('x', boolean=true) }}{{ [1, 2] | batch(linecount=3, fill_with='-') | list }}", "{{ m['content'][2:9].upper()[::-1].removeprefix('E') }}",
    "{{ (m.content | trim).rsplit(none, 1)[1].removesuffix('?').center(9, '-') }}", "{{ 'x'.ljust('abc'.index('c') + 2, '-') ~ '|' }}", "{{ messages[0].content.split(' ')[-4:] | map('trim') | map('replace', 'n', 'm') | join('|') }}",
    "{{ messages.append(1) }}", "{{ {}.update(a=1) }}", "{{ missing.strip() }}", "{{ none.strip() }}", "{{ 5 .upper() }}", "{{ m.title() }}", "{{ 'a'.nothing() }}", "{{ 'a'.encode().decode() if false }}ok",
    "{{ ' a' is string and ' a'.strip() is eq 'a' }}{{ 4 is divisibleby 2 }}{{ 5 is not divisibleby 'ab'.index('b') + 1 }}", "{{ [1, 2][0] }}{{ (1, 2) }}{{ {'a': (1,)} }}",
]  # fmt: skip

CASES = [case for table in (OF_TEXTS, FILTERS, GLOBALS) for cases in table.values() for case in cases]
SHORTENED = {case: "{% set m = messages[0] %}" + case for case in [*CASES, *FORMATTING, *PLACES]}


@pytest.mark.parametrize("case", SHORTENED)
def test_as_transformers_renders_it(case: str) -> None:
    source = SHORTENED[case]
    assert ours(ChatTemplate(source, {}), MESSAGES) == oracle(source, MESSAGES)


VALUES = ["none", "true", "1", "2.5", "'a'", "'A'", "''", "[]", "[1]", "{}", "missing"]


@pytest.mark.parametrize(
    "name", [name for name in sorted(TESTS) if name not in ("callable", "escaped", "filter", "test")]
)
def test_tests_of_values(name: str) -> None:
    wants = name in {
        "divisibleby",
        "eq",
        "equalto",
        "ge",
        "greaterthan",
        "gt",
        "le",
        "lessthan",
        "lt",
        "ne",
        "sameas",
    }
    apart = {"iterable": "none", "sequence": "missing"}.get(name)  # told on the page
    for value in VALUES:
        if value == apart:
            continue
        test = f"{name}(1)" if wants else f"{name} [1, 'a']" if name == "in" else name
        if not name[0].isalpha():
            test = f"{value} {name} 1"
        source = f"{{{{ {test if not name[0].isalpha() else f'{value} is {test}'} }}}}"
        expected = oracle(source, MESSAGES)
        if expected is not None:  # what Jinja2 refuses may be refused or not
            assert ours(ChatTemplate(source, {}), MESSAGES) == expected, source


def test_nothing_of_jinja_is_forgotten() -> None:
    """Each name that transformers' environment offers has a case here, or is named as absent."""
    offered = {name for kind in (str, list) for name in dir(kind) if not name.startswith("_")}
    changing = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}
    assert set(OF_TEXTS) == offered - changing - {"encode", "maketrans"} == METHODS - changing
    assert set(FILTERS) | ABSENT["filters"] == set(jinja2.defaults.DEFAULT_FILTERS)
    assert set(GLOBALS) | ABSENT["globals"] == set(jinja2.defaults.DEFAULT_NAMESPACE)
    assert set(jinja2.defaults.DEFAULT_TESTS) == TESTS


def test_the_page_names_them_all() -> None:
    page = (Path(__file__).parents[3] / "docs" / "templates.md").read_text()
    there, absent = page.split("## What is not there")
    named = set(re.findall(r"`([^`]+)`", there))
    assert named >= {*OF_TEXTS, *FILTERS, *GLOBALS, *TESTS}
    assert set(re.findall(r"`([^`]+)`", absent)) >= {*ABSENT["filters"], *ABSENT["globals"], "encode"}


OPERANDS = st.sampled_from(
    ["'ab'", "m.role", "7", "('x')", "[1, 2]", "'a-b'.partition('-')", "messages[0]['role'].upper()", "(3 + 4)", "('%s' % 1)", "{'a': 'b'}['a']"]
)  # fmt: skip
OPERATORS = st.sampled_from([" + ", " ~ ", " % ", " == ", " and ", " or ", " in ", " // ", " - -", ", "])


@settings(max_examples=300, deadline=None)
@given(
    first=OPERANDS,
    rest=st.lists(st.tuples(OPERATORS, OPERANDS, st.sampled_from(["", " | length", " is string", ".count('a')"])), max_size=4),
)  # fmt: skip
@example(first="7", rest=[(" - -", "7", " is string")])
def test_operators_in_any_order(first: str, rest: list[tuple[str, str, str]]) -> None:
    source = "{% set m = messages[0] %}{{ [" + first + "".join("".join(piece) for piece in rest) + "] }}"
    expected = oracle(source, MESSAGES)
    if expected is not None:
        assert ours(ChatTemplate(source, {}), MESSAGES) == expected


HOSTILE = [
    "{{ 'a'.center(1000000000) }}", "{{ 'a'.ljust(10 ** 9) }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (1000000000, 1) }}", "{{ '{:>1000000000}'.format(1) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "{{ 'a' | center(1000000000) }}", "{{ 'a' | indent(10 ** 9) }}", "{{ ('b' * 100000).join(['a'] * 100000) }}",
    "{{ '{0.__class__.__mro__}'.format('a') }}", "{{ '{a.__init__}'.format_map({'a': 1}) }}", "{{ cycler(1)._items }}{{ cycler(1).next.__func__.__globals__ }}", "{{ _method.__globals__['sys'].exit() }}",
    "{{ _method('a', '__class__') }}", "{{ _method('a', '__len__') }}", "{{ 'a'.zfill(true * 10 ** 9) }}", "{{ 'a\t'.expandtabs(10 ** 9) }}",
    "{% for i in range(90000) %}{{ ('a' * 10000).split('a') | length }}{% endfor %}", "{{ " + "-" * 50_000 + "1 }}", "{{ 1" + " % 3" * 50_000 + " }}", "{{ 'a'" + ".upper()" * 50_000 + " }}", "{{ " * 100_000, "{{ 1 | " + "[" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:50])
def test_hostile_templates_are_refused_in_one_line(source: str) -> None:
    with pytest.raises(PromptError) as refused:
        ChatTemplate(source, {}).render(MESSAGES)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_tag_that_cannot_be_read_stays_as_it_is() -> None:
    for source in (
        "{{ 'a'.upper( }}",
        "{{ 'a",
        "{% if 'a'.upper() ? %}",
        "{{ ) }}",
        "x {{",
        "{{ a.. b }}",
        "{% set",
    ):
        assert rewritten(source) == source
