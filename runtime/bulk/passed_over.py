"""What a folder holds and a run does not read, for people: counts by kind, with examples.

Enters: names and kinds, one at a time. Leaves: a line of text; memory does not grow with their number.
"""

from __future__ import annotations

from pumice.errors import PumiceError

EXAMPLES = 3
"""Names that are shown of a kind."""

KINDS = 8
"""Kinds that are shown."""

_REMEMBERED = 100
"""Kinds that are told apart; any more are of one kind."""


class PassedOver:
    """Counts, and a few names of each kind."""

    def __init__(self) -> None:
        self.count = 0
        self._kinds: dict[str, tuple[int, tuple[str, ...]]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a name; a hidden folder counts once, whatever is in it."""
        if kind not in self._kinds and len(self._kinds) >= _REMEMBERED:
            kind = "other"
        count, examples = self._kinds.get(kind, (0, ()))
        self._kinds[kind] = (count + 1, examples if len(examples) == EXAMPLES else (*examples, name))
        self.count += 1

    def __str__(self) -> str:
        """`3: 2 .heic ('a.heic', 'b.heic'), 1 pipe ('c.png')`, the most frequent first; empty if there are none."""
        if not self.count:
            return ""
        kinds = sorted(self._kinds.items(), key=lambda item: (-item[1][0], item[0]))
        shown = [_kind(name, count, examples) for name, (count, examples) in kinds[:KINDS]]
        if rest := sum(count for _, (count, _) in kinds[KINDS:]):
            shown.append(f"{rest:,} of other kinds")
        return str(PumiceError(f"{self.count:,}: {', '.join(shown)}"))


def _kind(name: str, count: int, examples: tuple[str, ...]) -> str:
    more = ", …" if count > len(examples) else ""
    return f"{count:,} {name} ({', '.join(_short(example) for example in examples)}{more})"


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:18]}…{name[-18:]}")
