"""What is not done twice: the second turn of a conversation, and another question about the same image.

Run as `python -m bench.turns BUNDLE`. Enters: a bundle. Leaves: a JSON line for each kind of question, with medians
over `--rounds` of the seconds to the first token, of those of the vision encoder and of the tokens that were read.

    first    an image never seen, and a question
    second   the next turn of that conversation
    again    another conversation about the same image
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict

import numpy as np
from PIL import Image

import pumice
from pumice.result import Generation

FIRST = "What is shown in this picture? Describe it in some detail, please."
SECOND = "And what is in the background?"
AGAIN = "How many things are there in this picture?"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    model = pumice.load(args.bundle, device="cpu", threads=args.threads)
    ask_all(model, 0)  # warms up
    seen: dict[str, list[Generation]] = defaultdict(list)
    for number in range(1, args.rounds + 1):
        for kind, answer in ask_all(model, number).items():
            seen[kind].append(answer)
    first = statistics.median(answer.timings.time_to_first_token for answer in seen["first"])
    for kind, answers in seen.items():
        print(json.dumps(summary(kind, answers, first)))


def ask_all(model: pumice.Model, number: int) -> dict[str, Generation]:
    """A round with an image of its own."""
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    chat = model.chat(max_new_tokens=16)
    answers = {"first": chat.send(f"{number}. {FIRST}", [image]), "second": chat.send(SECOND)}
    answers["again"] = model.generate(f"{number}. {AGAIN}", [image], max_new_tokens=16)
    return answers


def summary(kind: str, answers: list[Generation], first: float) -> dict[str, object]:
    """Medians; `share` is of the first question's time to first token."""
    seconds = statistics.median(answer.timings.time_to_first_token for answer in answers)
    return {
        "kind": kind,
        "time_to_first_token_s": round(seconds, 4),
        "share": round(seconds / first, 3),
        "vision_s": round(statistics.median(answer.timings.vision for answer in answers), 4),
        "prefill_s": round(statistics.median(answer.timings.prefill for answer in answers), 4),
        "prompt_tokens": statistics.median(answer.usage.prompt_tokens for answer in answers),
        "tokens_read": statistics.median(a.usage.prompt_tokens - a.usage.cached_tokens for a in answers),
    }


if __name__ == "__main__":
    main()
