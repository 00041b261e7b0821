"""A chat template's source for minijinja: what only Jinja2 on Python understands, written in another way.

Enters: a template as published. Leaves: a template from which minijinja renders what Jinja2 would.

    line ends         \\r\\n, \\r                    →  \\n, as Jinja2's lexer has it
    training marks    {% generation %}…            →  {% with %}…, a block with its own scope
    methods           name.rsplit('/', 1)[0]       →  _method(name, 'rsplit', '/', 1)[0]
    formatting        '%s: %d' % (a, b)            →  _modulo('%s: %d', (a, b), true)
    binding           1 ~ 2 + 3, x is odd + 1      →  (1 ~ 2) + 3, (x is odd) + 1, as Jinja2 reads it
    arguments         x | default('', boolean=1)   →  x | default('', 1)

`_method` and `_modulo` are functions of the rendering process (`jinja_functions.py`). A tag that cannot be read stays
as it is, and what follows it: minijinja says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

METHODS = frozenset(name for kind in (str, list) for name in dir(kind) if name[0] != "_") - {
    "encode",
    "maketrans",
}
"""Methods of texts and lists; those of mappings that change nothing are minijinja's own."""
_CHANGING = frozenset({"popitem", "setdefault", "update"})
"""Of mappings, and like those of lists refused, as transformers' sandbox does."""

_BY_PLACE = {
    "batch": ("linecount", "fill_with"),
    "d": ("default_value", "boolean"),
    "default": ("default_value", "boolean"),
    "filesizeformat": ("binary",),
    "slice": ("slices", "fill_with"),
    "trim": ("chars",),
}
"""Arguments of filters that minijinja takes by their places only."""

_MOST_CALLS, _MOST_LEVELS = 200, 50
"""In one tag; published templates have a few."""

_BLOCK = re.compile(
    r"(?s){%[-+]?\s*raw\s*[-+]?%}.*?(?:{%[-+]?\s*endraw\s*[-+]?%}|\Z)|{#.*?(?:#}|\Z)|(?P<open>{{|{%)[-+]?"
)
_TOKEN = re.compile(
    r"(?s)(?P<lead>\s*)(?:"
    r"(?P<end>[-+]?(?:%}|}}))"
    r"""|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"|(?P<number>0[xXoObB][0-9a-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<operator>\*\*|//|==|!=|<=|>=|[-+*/%~<>=.,:|()\[\]{}]))"
)
_WORDS = frozenset({"and", "else", "if", "in", "is", "not", "or", "recursive"})
"""Names that are operators."""
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def rewritten(source: str) -> str:
    """The source for minijinja."""
    return _with_calls(_without_generation_tags(with_line_feeds(source)))


def with_line_feeds(source: str) -> str:
    """The source with `\\n` for every line end, as Jinja2's lexer reads it."""
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _without_generation_tags(source: str) -> str:
    """`{% generation %}` marks what transformers may train on; rendered, it is a plain block with its own scope."""
    source = re.sub(r"{%([-+]?)\s*generation\s*([-+]?)%}", r"{%\1 with \2%}", source)
    return re.sub(r"{%([-+]?)\s*endgeneration\s*([-+]?)%}", r"{%\1 endwith \2%}", source)


def _with_calls(source: str) -> str:
    """The source with the expressions in its tags rewritten."""
    pieces, position = [], 0
    while found := _BLOCK.search(source, position):
        pieces.append(source[position : found.end()])
        position = found.end()
        if found["open"]:
            try:
                tokens = _tokens(source, position, "%}" if found["open"] == "{%" else "}}")
                tag = _Tag(tokens).text(statement=found["open"] == "{%")
            except _UnreadableError:
                break
            pieces.append(tag)
            position += sum(len(token.lead) + len(token.text) for token in tokens)
    return "".join([*pieces, source[position:]])


class _UnreadableError(Exception):
    """A tag that this page has no rules for."""


@dataclass(frozen=True, kw_only=True)
class _Token:
    """`lead` is the white space before it; `kind` one of `text`, `number`, `name`, `operator`."""

    kind: str
    lead: str
    text: str


def _tokens(source: str, position: int, end: str) -> list[_Token]:
    """The tokens of a tag, without its beginning and end."""
    tokens: list[_Token] = []
    depth = 0
    while found := _TOKEN.match(source, position):
        kind, text = str(found.lastgroup), found[0].lstrip()
        if kind == "end":
            if text.endswith(end) and not depth:
                return tokens
            kind, text = "operator", text[0]  # of `}}` that closes two mappings, or `%` before one
        depth += (text in _PAIRS) - (text in _PAIRS.values())
        tokens.append(_Token(kind=kind, lead=found["lead"], text=text))
        position += len(found["lead"]) + len(text)
    raise _UnreadableError


@dataclass(frozen=True, kw_only=True)
class _Operand:
    """A piece of the output; `is_tuple` where it is nothing but a tuple written out."""

    text: str
    is_tuple: bool = False

    def within(self, function: str, arguments: str) -> _Operand:
        """A call of a function with this and other arguments."""
        bare = self.text.lstrip()
        lead = self.text[: len(self.text) - len(bare)] or " "  # `not'x'.isalpha()` needs none
        return _Operand(text=f"{lead}{function}({bare}{arguments})")


class _Tag:
    """Reads one tag by Jinja2's grammar, as far as it must know where operands begin and end:

    sequence   joined (looser operator joined)*    + - == < , : = and or not in if else
    joined     term (~ term)*
    term       power ((* | / | // | %) power)*
    power      unary (** unary)*
    unary      (- | +)* primary postfix* (| filter | is test)*
    """

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens, self._next = list(tokens), 0
        self._calls, self._level = 0, 0

    def text(self, *, statement: bool) -> str:
        """The tag's inside, rewritten; a statement begins with its name."""
        name = self._take() if statement and self._tokens else ""
        inside, _ = self._sequence(None)
        return name + inside

    def _sequence(self, end: str | None) -> tuple[str, bool]:
        """All that stands before a closing bracket, or in the tag; and whether there are commas in it, or nothing."""
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise _UnreadableError
        pieces: list[str] = []
        commas, operand = False, False
        while self._next < len(self._tokens) and not self._is(end):
            if self._starts_operand() or (not operand and self._is("-", "+")):
                pieces.append(self._joined())
                operand = True
            else:
                if self._is(")", "]", "}", ".", "|"):
                    raise _UnreadableError
                commas |= self._is(",")
                operand = False
                pieces.append(self._take())
        self._level -= 1
        return "".join(pieces), commas or not pieces

    def _joined(self) -> str:
        pieces = [self._term().text]
        while self._is("~"):
            pieces += [self._take(), self._term().text]
        return pieces[0] if len(pieces) == 1 else f" ({''.join(pieces)})"

    def _term(self) -> _Operand:
        left = self._power()
        while self._is("*", "/", "//", "%"):
            operator = self._take()
            right = self._power()
            if operator.strip() == "%":
                self._count()
                left = left.within("_modulo", f",{right.text}, {str(right.is_tuple).lower()}")
            else:
                left = _Operand(text=left.text + operator + right.text)
        return left

    def _power(self) -> _Operand:
        left = self._unary()
        while self._is("**"):
            left = _Operand(text=left.text + self._take() + self._unary().text)
        return left

    def _unary(self) -> _Operand:
        signs = ""
        while self._is("-", "+"):
            signs += self._take()
        operand = self._postfixed(self._primary())
        if signs:
            operand = _Operand(text=signs + operand.text)
        while self._is("|", "is"):
            test = self._is("is")
            if test and signs:  # `-7 is number` asks of -7
                operand, signs = _Operand(text=f" ({operand.text})"), ""
            text = operand.text + self._filter_or_test()
            operand = _Operand(text=f" ({text})" if test else text)
        return operand

    def _primary(self) -> _Operand:
        if not self._starts_operand():
            raise _UnreadableError
        kind, text = self._token.kind, self._token.text
        if text in _PAIRS and kind == "operator":
            inside, commas = self._bracket()
            return _Operand(text=inside, is_tuple=commas and text == "(")
        name = self._take()
        while kind == "text" and self._next < len(self._tokens) and self._token.kind == "text":
            name += self._take()  # neighbours are one text
        return _Operand(text=name)

    def _postfixed(self, operand: _Operand) -> _Operand:
        """What attributes, items and calls make of a value."""
        while self._is(".", "[", "("):
            if not self._is("."):
                operand = _Operand(text=operand.text + self._bracket()[0])
                continue
            dot, name, called = self._take(), self._take(), self._is("(")
            if called and name.strip() in METHODS | _CHANGING:
                self._count()
                self._take()
                arguments, _ = self._sequence(")")
                self._closed(")")
                comma = ", " if arguments.strip() else ""
                operand = operand.within("_method", f", '{name.strip()}'{comma}{arguments}")
            else:
                operand = _Operand(text=operand.text + dot + name)
        return operand

    def _filter_or_test(self) -> str:
        """`| name.more(…)`, or `is not name` with an operand or arguments."""
        test = self._is("is")
        pieces = [self._take()]
        if test and self._is("not"):
            pieces.append(self._take())
        pieces.append(self._take())
        names = () if test else _BY_PLACE.get(pieces[-1].strip(), ())
        while self._is("."):
            pieces += [self._take(), self._take()]
        if self._is("("):
            self._drop_names(names)
            pieces.append(self._bracket()[0])
        elif test and self._starts_operand():
            pieces.append(self._postfixed(self._primary()).text)
        return "".join(pieces)

    def _drop_names(self, names: tuple[str, ...]) -> None:
        """Arguments given by these names, in the bracket that begins here, are given by their places."""
        depth = 0
        for i in range(self._next, len(self._tokens) - 1 if names else 0):
            before, name, after = self._tokens[i - 1 : i + 2]
            if depth == 1 and before.text in ("(", ",") and name.text in names and after.text == "=":
                self._tokens[i : i + 2] = [replace(name, text=""), replace(after, text="", lead="")]
            depth += (name.text in _PAIRS) - (name.text in _PAIRS.values())
            if not depth:
                return

    def _bracket(self) -> tuple[str, bool]:
        opening = self._take()
        end = _PAIRS[opening.strip()]
        inside, commas = self._sequence(end)
        return opening + inside + self._closed(end), commas

    def _closed(self, end: str) -> str:
        if not self._is(end):
            raise _UnreadableError
        return self._take()

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _is(self, *texts: str | None) -> bool:
        """Whether the next token is one of these operators or words."""
        if self._next == len(self._tokens):
            return False
        return self._token.kind in ("operator", "name") and self._token.text in texts

    def _starts_operand(self) -> bool:
        if self._next == len(self._tokens):
            return False
        token = self._token
        return token.text in _PAIRS if token.kind == "operator" else token.text not in _WORDS

    def _take(self) -> str:
        if self._next == len(self._tokens):
            raise _UnreadableError
        token = self._token
        self._next += 1
        return token.lead + token.text

    def _count(self) -> None:
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise _UnreadableError
