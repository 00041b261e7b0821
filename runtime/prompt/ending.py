"""How a rendered prompt ends.

Enters: what was asked for with a prompt. Leaves: an `Ending`, or a `UsageError` where they contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from pumice.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a rendered prompt ends: with the beginning of an answer, or with the last message's own words."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @classmethod
    def of(cls, prompt: object, raw: bool, add: bool | None, go_on: bool) -> Ending:
        """As asked for; the beginning of an answer is added unless the last message goes on."""
        if raw and (go_on or add):
            raise UsageError(
                "a raw prompt is taken as it stands: nothing is added to it, and it is continued anyway"
            )
        if go_on and add:
            raise UsageError(
                "continue_final_message and add_generation_prompt contradict each other: either the last message goes "
                "on, or an answer to it begins"
            )
        if go_on and isinstance(prompt, str):
            raise UsageError(
                "continue_final_message is for messages [{'role', 'content'}], the last of which goes on: "
                "got a question"
            )
        return cls(add_generation_prompt=not go_on if add is None else add, continue_final_message=go_on)
