"""Python's methods and Jinja2's filters, for the process in which chat templates are rendered.

Enters: values of a template, as minijinja hands them to Python: None, numbers, texts, lists, dicts. Leaves: the same.
`template_worker.py` reads this file by its path; it imports nothing of pumice. What minijinja does as Jinja2 does is
left to it.
"""

import json
import re
import string
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from minijinja import Markup

_OF_LISTS = frozenset({"index", "count", "copy"})
_OF_TEXTS = frozenset(name for name in dir(str) if name[0] != "_") - {"encode", "maketrans"}

MOST = 16 * 2**20
"""Characters that a number in a template may ask for."""


class RefusalError(Exception):
    """What a template says with `raise_exception`."""


def raise_exception(message: str) -> None:
    """Ends the rendering."""
    raise RefusalError(message)


def strftime_now(form: str) -> str:
    """The time, as `datetime.strftime` writes it."""
    return datetime.now().strftime(form)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: no character is escaped for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Formatter(string.Formatter):
    """`str.format`, in which a field's dots are keys and never a Python object's attributes."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        first, *keys = re.findall(r"[^.\[\]]+", field_name)
        value = self.get_value(int(first) if first.isdecimal() else first, args, kwargs)
        for key in keys:
            value = value[int(key) if key.isdecimal() else key]
        return value, first


def method(value: Any, name: str, *arguments: Any, **named: Any) -> Any:
    """A method of a text, list or mapping that changes nothing."""
    given = [*arguments, *named.values()]
    if any(isinstance(number, int) and number > MOST for number in given):
        raise ValueError(f"{name} is asked for more than {MOST:,} characters")
    if isinstance(value, str) and name in _OF_TEXTS:
        text = str.__str__(value)
        if name == "format":
            return _Formatter().vformat(text, arguments, named)
        if name == "format_map":
            return _Formatter().vformat(text, (), *arguments)
        if name in ("startswith", "endswith") and arguments and isinstance(arguments[0], list):
            arguments = (tuple(arguments[0]), *arguments[1:])  # tuples arrive as lists
        return getattr(text, name)(*arguments, **named)
    if isinstance(value, list | tuple) and name in _OF_LISTS:
        return getattr(list(value), name)(*arguments, **named)
    if isinstance(value, dict) and name == "copy":
        return dict(value)
    kind = "undefined" if value is None else type(value).__name__
    raise TypeError(f"{kind} has no method named {name}")


def modulo(left: Any, right: Any, is_tuple: bool) -> Any:
    """`left % right`; `right` is a list where it was written as a tuple."""
    if isinstance(left, str):
        return str.__str__(left) % (tuple(right) if is_tuple else right)
    return left % right


class _Cycler:
    """Values in turn. minijinja shows templates nothing of an object whose name begins with an underscore."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        if not items:
            raise TypeError("cycler has nothing to go through")
        self._items, self._position = items, 0

    @property
    def current(self) -> Any:
        """What comes next."""
        return self._items[self._position]

    def next(self) -> Any:
        """The value whose turn it is."""
        value = self.current
        self._position = (self._position + 1) % len(self._items)
        return value

    def reset(self) -> None:
        """Begin anew."""
        self._position = 0


def cycler(*items: Any) -> _Cycler:
    """`cycler(…)`, whose `next()` gives the values in turn."""
    return _Cycler(items)


def as_dict(*mappings: Any, **named: Any) -> dict[str, Any]:
    """`dict(…)`."""
    return dict(*mappings, **named)


def _text(value: Any) -> str:
    """The value as text; what is undefined arrives as None."""
    return "" if value is None else str(value)


def wordcount(value: Any) -> int:
    """Words, as a regular expression finds them."""
    return len(re.findall(r"\w+", _text(value)))


def center(value: Any, width: int = 80) -> Any:
    """The text with blanks on both sides."""
    return method(_text(value), "center", width)


def truncate(
    value: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: int | None = 5
) -> str:
    """The beginning, of whole words unless they may be cut, if the text is longer than `length` and `leeway`."""
    text = _text(value)
    if length < len(end):
        raise ValueError(f"expected length >= {len(end)}, got {length}")
    leeway = 5 if leeway is None else leeway
    if leeway < 0:
        raise ValueError(f"expected leeway >= 0, got {leeway}")
    if len(text) <= length + leeway:
        return text
    cut = text[: length - len(end)]
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + end


def as_int(value: Any, default: int = 0, base: int = 10) -> Any:
    """A whole number; `default` where there is none."""
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError):
        try:
            return int(float(value))
        except (TypeError, ValueError, OverflowError):
            return default


def as_float(value: Any, default: float = 0.0) -> Any:
    """A number with a point; `default` where there is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Each line but the first behind blanks; the first and those without words if asked for."""
    if isinstance(width, int) and width > MOST:
        raise ValueError(f"indent is asked for more than {MOST:,} characters")
    lead = width if isinstance(width, str) else " " * width
    text = f"{_text(value)}\n"
    if blank:
        lines = f"\n{lead}".join(text.splitlines())
    else:
        head, *others = text.splitlines()
        lines = "\n".join([head, *(lead + line if line else line for line in others)])
    return lead + lines if first else lines


def wordwrap(
    value: Any,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    """Lines of at most `width` characters."""
    import textwrap

    lines = _text(value).splitlines()
    wrapped = [
        textwrap.wrap(
            line,
            width=width,
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=break_long_words,
            break_on_hyphens=break_on_hyphens,
        )
        for line in lines
    ]
    end = "\n" if wrapstring is None else wrapstring
    return end.join(end.join(each) for each in wrapped)


def striptags(value: Any) -> str:
    """The text without HTML's tags and comments, its white space single blanks."""
    text = re.sub(r"(?s)<!--.*?-->", "", _text(value))
    return " ".join(re.sub(r"(?s)<.*?>", "", text).split())


def urlencode(value: Any) -> str:
    """The text, or keys and values, as they stand in a URL."""
    import urllib.parse

    if isinstance(value, str) or not isinstance(value, Iterable):
        return urllib.parse.quote(str(value), safe="/")
    pairs = value.items() if isinstance(value, Mapping) else value
    quoted = [(urllib.parse.quote_plus(str(key)), urllib.parse.quote_plus(str(item))) for key, item in pairs]
    return "&".join(f"{key}={item}" for key, item in quoted)


def formatted(value: Any, *arguments: Any, **named: Any) -> str:
    """`'%s' | format(…)`."""
    if arguments and named:
        raise TypeError("format takes values by place or by name, not both")
    text: str = _text(value) % (named or arguments)
    return text


def _key(attribute: Any, case_sensitive: bool) -> Callable[[Any], Any]:
    """What values are compared by: themselves or what stands at a path within, small letters like capitals."""

    def part(value: Any, path: str) -> Any:
        for name in path.split("."):
            key = int(name) if name.isdecimal() else name
            value = value.get(key) if isinstance(value, dict) else value[key] if key != name else None
        return value

    def folded(value: Any) -> Any:
        return value.lower() if isinstance(value, str) and not case_sensitive else value

    if attribute is None:
        return folded
    paths = str(attribute).split(",")
    if len(paths) == 1:
        return lambda value: folded(part(value, paths[0]))
    return lambda value: [folded(part(value, path)) for path in paths]


def sort(value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
    """A sorted list."""
    return sorted(value, key=_key(attribute, case_sensitive), reverse=reverse)


def unique(value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    """The first of all that are equal."""
    found: dict[Any, Any] = {}
    key = _key(attribute, case_sensitive)
    for item in value:
        found.setdefault(key(item), item)
    return list(found.values())


def smallest(value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    """The smallest item."""
    return min(value, key=_key(attribute, case_sensitive), default="")


def largest(value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
    """The largest item."""
    return max(value, key=_key(attribute, case_sensitive), default="")


def dictsort(value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False) -> Any:
    """Pairs sorted by key or value."""
    if by not in ("key", "value"):
        raise ValueError("dictsort goes by 'key' or 'value'")
    key = _key(None, case_sensitive)
    return sorted(value.items(), key=lambda pair: key(pair[by == "value"]), reverse=reverse)


def random(value: Any) -> Any:
    """One of several."""
    import random as chance

    return chance.choice(value)


def pprint(value: Any) -> str:
    """The value in Python's form, over several lines if it is long."""
    import pprint as printer

    return printer.pformat(value)


def xmlattr(value: Any, autospace: bool = True) -> str:
    """Attributes of an XML element."""
    items = [(key, item) for key, item in value.items() if item is not None]
    if any(re.search(r"[\s/>=]", key) for key, _ in items):
        raise ValueError("an attribute's name has a character that it cannot have")
    text = " ".join(f'{forceescape(key)}="{forceescape(item)}"' for key, item in items)
    return f" {text}" if autospace and text else text


def escape(value: Any) -> Any:
    """The text with HTML's characters escaped, unless they are already."""
    return value if hasattr(value, "__html__") else Markup(forceescape(value))


def forceescape(value: Any) -> str:
    """The text with HTML's characters escaped, once more if need be."""
    text = _text(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("'", "&#39;").replace('"', "&#34;")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_method": method,
    "_modulo": modulo,
    "cycler": cycler,
    "dict": as_dict,
    "raise_exception": raise_exception,
    "strftime_now": strftime_now,
}

FILTERS: dict[str, Callable[..., Any]] = {
    "center": center,
    "dictsort": dictsort,
    "e": escape,
    "escape": escape,
    "float": as_float,
    "forceescape": forceescape,
    "format": formatted,
    "indent": indent,
    "int": as_int,
    "max": largest,
    "min": smallest,
    "pprint": pprint,
    "random": random,
    "sort": sort,
    "striptags": striptags,
    "tojson": tojson,
    "truncate": truncate,
    "unique": unique,
    "urlencode": urlencode,
    "wordcount": wordcount,
    "wordwrap": wordwrap,
    "xmlattr": xmlattr,
}

TESTS: dict[str, Callable[[Any], bool]] = {
    "callable": callable,
    "sequence": lambda value: isinstance(value, str | list | tuple | dict),
}
