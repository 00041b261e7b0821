"""Where the first stop string begins among the bytes of tokens, and what may be the beginning of one.

Enters: bytes, token by token. Leaves: a place, up to which text may be shown.

    stop "###"    bytes      "a #"    "#b #"   "## c"
                  `start`    after a  after b  after b, found

What may not be shown yet is the longest end of the bytes that begins a stop string. An automaton of all of them (Aho
and Corasick's) knows its length after every byte, so that a byte costs the same however long they are. Bytes, because a
token may be a part of a character, as transformers' `StopStringCriteria` has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pumice.errors import UsageError


class StopStrings:
    """Looks for stop strings in one answer. `start` counts bytes of the answer; in the prompt it is below 0.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if "" in strings:
            raise UsageError("stop_strings has an empty string, which would end every answer: remove it")
        self._automaton = _Automaton([string.encode() for string in strings])
        self._node = 0
        self._read = 0
        self.start = 0
        """Where the first stop string begins if `found`; else, where one may have begun."""
        self.found = False

    def begin(self, prompt: bytes) -> None:
        """Go on from the end of a prompt: a stop string may begin there, though none is found."""
        for byte in prompt:
            self._node = self._automaton.follow(self._node, byte)
        self.start = -self._automaton.depths[self._node]

    def add(self, data: bytes) -> None:
        """Look at a token's bytes: of the stop strings that are complete with it, the one that begins first counts."""
        follow, ends = self._automaton.follow, self._automaton.ends
        node, first = self._node, None
        for position, byte in enumerate(data, self._read + 1):
            node = follow(node, byte)
            if ends[node] and (first is None or position - ends[node] < first):
                first = position - ends[node]
        self._node = node
        self._read += len(data)
        self.found = first is not None
        self.start = self._read - self._automaton.depths[node] if first is None else first


class _Automaton:
    """A node for every beginning of every string, 0 the empty one.

    `depths` are the beginnings' lengths; `ends` the length of the longest string that a beginning ends with, 0 if it
    ends with none.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        self._children: list[dict[int, int]] = [{}]
        self.depths, self.ends = [0], [0]
        for string in strings:
            self._insert(string)
        self._shorter = [0] * len(self.depths)  # the longest beginning that ends this one
        self._link()

    def follow(self, node: int, byte: int) -> int:
        """The longest beginning that ends the bytes so far and this byte."""
        while node and byte not in self._children[node]:
            node = self._shorter[node]
        return self._children[node].get(byte, 0)

    def _insert(self, string: bytes) -> None:
        node = 0
        for depth, byte in enumerate(string, 1):
            if byte not in self._children[node]:
                self._children[node][byte] = len(self.depths)
                self._children.append({})
                self.depths.append(depth)
                self.ends.append(0)
            node = self._children[node][byte]
        self.ends[node] = len(string)

    def _link(self) -> None:
        """Breadth first: what a node falls back to is shorter, hence linked before."""
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            for byte, child in self._children[node].items():
                self._shorter[child] = self.follow(self._shorter[node], byte)
                self.ends[child] = self.ends[child] or self.ends[self._shorter[child]]
                queue.append(child)
