"""Which onnxruntime a graph's operators need."""

from __future__ import annotations

import dataclasses

import pytest

from pumice.manifest.operators import LOWEST, Operator, lowest_version, version_numbers


def operator(name: str, inputs: int, domain: str = "com.microsoft") -> Operator:
    return Operator(domain=domain, name=name, inputs=inputs)


@pytest.mark.parametrize(
    ("held", "makes_unsigned", "needed"),
    [
        ([], True, LOWEST),
        ([operator("MatMulNBits", 4), operator("Conv", 2, "")], True, LOWEST),
        ([operator("MatMulIntegerToFloat", 5)], True, "1.30.0"),
        ([operator("MatMulIntegerToFloat", 4)], True, "1.30.0"),
        ([operator("MatMulIntegerToFloat", 5)], False, LOWEST),
        ([operator("MatMulIntegerToFloat", 6)], True, LOWEST),
        ([operator("MatMulIntegerToFloat", 7)], True, LOWEST),
        ([operator("MatMulInteger", 3, "")], True, "1.30.0"),
        ([operator("MatMulInteger", 4, "")], True, LOWEST),
        ([operator("MatMulIntegerToFloat", 6), operator("MatMulIntegerToFloat", 5)], True, "1.30.0"),
    ],
)
def test_products_without_a_zero_point(held: list[Operator], makes_unsigned: bool, needed: str) -> None:
    assert lowest_version(held, makes_unsigned=makes_unsigned) == needed


def test_windows_had_one_token_more() -> None:
    windowed = Operator(
        domain="com.microsoft",
        name="GroupQueryAttention",
        inputs=9,
        attributes=frozenset({"local_window_size"}),
    )
    assert lowest_version([windowed], makes_unsigned=False) == "1.24.0"
    assert lowest_version([operator("GroupQueryAttention", 9)], makes_unsigned=False) == LOWEST
    rounded = dataclasses.replace(windowed, inputs=14, attributes=frozenset({"k_quant_type"}))
    assert lowest_version([windowed, rounded], makes_unsigned=False) == "1.28.0"
    assert lowest_version([windowed, operator("MatMulIntegerToFloat", 5)], makes_unsigned=True) == "1.30.0"


def test_what_was_never_tried_on_older_versions_needs_the_one_it_was_made_with() -> None:
    assert lowest_version([operator("SomethingNew", 1)], makes_unsigned=True, untried="1.32.1") == "1.32.1"
    assert lowest_version([operator("SomethingNew", 1)], makes_unsigned=True) == LOWEST
    assert lowest_version([operator("Gelu", 1)], makes_unsigned=True, untried="1.32.1") == LOWEST


def test_versions_are_numbers() -> None:
    assert version_numbers("1.100.0") > version_numbers("1.32.0") > version_numbers("1.4.9")
    assert version_numbers("1.30.0.dev20260101") == version_numbers("1.30.1")
