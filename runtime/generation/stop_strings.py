"""Stop strings: text is shown up to the first of them, and never the beginning of one.

Enters: text, piece by piece. Leaves: what of it may be shown.

    stop "###"    pieces   "a #"   "#b #"   "## c"
                  shown    "a "    "##b "   ""        found

What is held back is the longest end of the text that begins a stop string. An automaton of all of them (Aho and
Corasick's) knows its length after every character, so that a character costs the same however long they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pumice.errors import UsageError


class StopStrings:
    """Looks for stop strings in one answer.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if "" in strings:
            raise UsageError("stop_strings has an empty string, which would end every answer: remove it")
        self._automaton = _Automaton(strings)
        self._node = 0
        self._read = self._given = 0  # characters
        self._held: deque[str] = deque()
        self._head = 0  # characters of the first held piece that were given out
        self.found = False

    def add(self, piece: str) -> str:
        """Text that may be shown now that `piece` has come; nothing more once a stop string is found.

        The text ends before the stop string that begins first, of those that are complete with this piece.
        """
        if self.found or not piece:
            return ""
        follow, ends = self._automaton.follow, self._automaton.ends
        node, start = self._node, -1
        for position, letter in enumerate(piece, self._read + 1):
            node = follow(node, letter)
            if ends[node]:
                begun = position - ends[node]
                start = begun if start < 0 else min(start, begun)
        self._node = node
        self._read += len(piece)
        self._held.append(piece)
        self.found = start >= 0
        return self._give(start if self.found else self._read - self._automaton.depths[node])

    def finish(self) -> str:
        """What was held back, of an answer that ended otherwise; empty if a stop string was found."""
        return "" if self.found else self._give(self._read)

    def _give(self, stop: int) -> str:
        """The text up to character `stop`."""
        parts = []
        while self._given < stop:
            left = len(self._held[0]) - self._head
            taken = min(left, stop - self._given)
            parts.append(self._held[0][self._head : self._head + taken])
            self._given += taken
            self._head = 0 if taken == left else self._head + taken
            if taken == left:
                self._held.popleft()
        return "".join(parts)


class _Automaton:
    """A node for every beginning of every string, 0 the empty one.

    `depths` are the beginnings' lengths; `ends` the length of the longest string that a beginning ends with, 0 if it
    ends with none.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self.depths, self.ends = [0], [0]
        for string in strings:
            self._insert(string)
        self._shorter = [0] * len(self.depths)  # the longest beginning that ends this one
        self._link()

    def follow(self, node: int, letter: str) -> int:
        """The longest beginning that ends the text so far and this letter."""
        while node and letter not in self._children[node]:
            node = self._shorter[node]
        return self._children[node].get(letter, 0)

    def _insert(self, string: str) -> None:
        node = 0
        for depth, letter in enumerate(string, 1):
            if letter not in self._children[node]:
                self._children[node][letter] = len(self.depths)
                self._children.append({})
                self.depths.append(depth)
                self.ends.append(0)
            node = self._children[node][letter]
        self.ends[node] = len(string)

    def _link(self) -> None:
        """Breadth first: what a node falls back to is shorter, hence linked before."""
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            for letter, child in self._children[node].items():
                self._shorter[child] = self.follow(self._shorter[node], letter)
                self.ends[child] = self.ends[child] or self.ends[self._shorter[child]]
                queue.append(child)
