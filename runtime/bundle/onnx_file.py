"""Which files an ONNX graph would read and what it computes with, found without ONNX Runtime and the onnx package.

Enters: the bytes of an `.onnx` file (a protobuf `ModelProto`). Leaves: every tensor's `external_data`, wherever a
graph can hold a tensor: initializers, sparse initializers, attributes, subgraphs, functions; and its operators.

Only the messages on the way to a tensor are known here; all else is stepped over. Of protobuf's liberties, those that
let one reader see what another does not are refused: groups, repeated single fields, overlong numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pumice.errors import BundleError
from pumice.manifest.operators import Operator

_MAX_DEPTH = 40
_MAX_FIELDS = 2_000_000

# message → its fields that lead to tensors: number → (message, may be repeated); numbers of onnx.proto
_MESSAGES: dict[str, dict[int, tuple[str, bool]]] = {
    "Model": {7: ("Graph", False), 20: ("Training", True), 25: ("Function", True)},
    "Training": {1: ("Graph", False), 2: ("Graph", False)},
    "Function": {7: ("Node", True), 11: ("Attribute", True)},
    "Graph": {1: ("Node", True), 5: ("Tensor", True), 15: ("SparseTensor", True)},
    "SparseTensor": {1: ("Tensor", False), 2: ("Tensor", False)},
    "Node": {5: ("Attribute", True)},
    "Attribute": {
        5: ("Tensor", False),
        6: ("Graph", False),
        10: ("Tensor", True),
        11: ("Graph", True),
        22: ("SparseTensor", False),
        23: ("SparseTensor", True),
    },
}
_KEYS = {"location", "offset", "length", "checksum"}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_EXTERNAL = 1
_INPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 4, 5, 7
"""Of a node."""
_ATTRIBUTE_NAME = 1


@dataclass(frozen=True, kw_only=True)
class ExternalTensor:
    """Where a tensor's bytes lie: `length` bytes of the file `location` from `offset` (0: unknown length)."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Tensors that lie in other files, and each kind of node once."""

    tensors: tuple[ExternalTensor, ...]
    operators: frozenset[Operator]


def read_onnx(data: bytes | memoryview) -> OnnxFile:
    """What a model refers to, and what it computes with.

    Raises:
        BundleError: not a protobuf model, one made to be read in two ways, or an entry of an unknown kind.
    """
    walker = _Walker()
    walker.walk("Model", memoryview(data), 0)
    if not walker.seen_graph:
        raise BundleError("it has no graph")
    return OnnxFile(tensors=tuple(walker.found), operators=frozenset(walker.operators))


class _Walker:
    """Collects external tensors and operators from nested messages."""

    def __init__(self) -> None:
        self.found: list[ExternalTensor] = []
        self.operators: set[Operator] = set()
        self.seen_graph = False
        self._fields = 0

    def walk(self, message: str, data: memoryview, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BundleError(f"its graphs are nested more than {_MAX_DEPTH} deep")
        self.seen_graph |= message == "Graph"
        if message == "Tensor":
            self._tensor(data)
            return
        known, seen = _MESSAGES[message], set()
        node = _Node() if message == "Node" else None
        for number, value in self._count(data):
            if node is not None:
                node.take(number, value)
            if number not in known:
                continue
            child, repeated = known[number]
            if not isinstance(value, memoryview) or (number in seen and not repeated):
                raise BundleError(f"its field {message}.{number} is malformed or repeated")
            seen.add(number)
            self.walk(child, value, depth + 1)
        if node is not None:
            self.operators.add(node.operator())

    def _count(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        for field in fields(data):
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise BundleError(f"it has more than {_MAX_FIELDS:,} fields")
            yield field

    def _tensor(self, data: memoryview) -> None:
        entries: dict[str, str] = {}
        external = False
        for number, value in self._count(data):
            if number == _DATA_LOCATION:
                external = external or value == _EXTERNAL
            elif number == _EXTERNAL_DATA:
                key, text = self._entry(value)
                if key in entries or key not in _KEYS:
                    raise BundleError(f"its external data has an unknown or repeated key {key[:40]!r}")
                entries[key] = text
        if external or entries:
            self.found.append(_external_tensor(entries))

    def _entry(self, value: int | memoryview) -> tuple[str, str]:
        if not isinstance(value, memoryview):
            raise BundleError("its external data is malformed")
        strings = {1: "", 2: ""}
        for number, text in self._count(value):
            if number in strings and isinstance(text, memoryview):
                try:
                    strings[number] = bytes(text).decode()
                except UnicodeDecodeError:
                    raise BundleError("its external data has a key or value that is not text") from None
        return strings[1], strings[2]


class _Node:
    """A node's own fields."""

    def __init__(self) -> None:
        self._names = {_OP_TYPE: b"", _DOMAIN: b""}
        self._inputs = self._given = 0
        self._attributes: set[str] = set()

    def take(self, number: int, value: int | memoryview) -> None:
        """A field; of a repeated one the last counts, as for every reader of protobuf."""
        if number == _INPUT:
            self._inputs += 1
            if isinstance(value, memoryview) and len(value):  # an input left out has an empty name
                self._given = self._inputs
        elif number == _ATTRIBUTE and isinstance(value, memoryview):
            self._attributes.add(_attribute_name(value))
        elif number in self._names and isinstance(value, memoryview):
            self._names[number] = bytes(value)

    def operator(self) -> Operator:
        """What kind of node it is."""
        name, domain = (text.decode(errors="replace") for text in self._names.values())
        return Operator(domain=domain, name=name, inputs=self._given, attributes=frozenset(self._attributes))


def _attribute_name(attribute: memoryview) -> str:
    name = b""
    for number, value in fields(attribute):
        if number == _ATTRIBUTE_NAME and isinstance(value, memoryview):
            name = bytes(value)
    return name.decode(errors="replace")


def _external_tensor(entries: dict[str, str]) -> ExternalTensor:
    if not entries.get("location"):
        raise BundleError("a tensor's external data has no location")
    offset, length = entries.get("offset", "0"), entries.get("length", "0")
    for number in (offset, length):
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise BundleError(f"its external data has an offset or length {number[:40]!r}")
    return ExternalTensor(location=entries["location"], offset=int(offset), length=int(length))


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a message's fields; numbers of fixed width are given as 0, they are not of interest."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise BundleError("it is not a protobuf message")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > end:
                raise BundleError("it is cut off")
            yield number, data[position : position + length]
            position += length
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
            if position > end:
                raise BundleError("it is cut off")
            yield number, 0
        else:
            raise BundleError("it is not a protobuf message")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
        shift += 7
    raise BundleError("it is cut off, or is not a protobuf message")
