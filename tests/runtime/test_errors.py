"""Messages are one plain line, whatever the files that they quote hold."""

from __future__ import annotations

import pytest

from pumice.errors import LONGEST_MESSAGE, CheckpointError, PumiceError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a tensor: é × „quoted“", "a tensor: é × „quoted“"),
        ("two\nlines\tand \x1b[31mred", r"two\nlines\tand \x1b[31mred"),
        ("half \udcff of a character\u2028", r"half \udcff of a character\u2028"),
        ("", ""),
    ],
)
def test_what_would_break_the_line_is_escaped(message: str, shown: str) -> None:
    assert str(CheckpointError(message)) == shown
    assert shown.isprintable()


def test_long_messages_keep_their_ends() -> None:
    message = str(PumiceError("begin " + "\0" * 10**6 + " end"))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith(r"begin \x00")
    assert message.endswith(" end")
    assert " … " in message
