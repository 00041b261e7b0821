"""The options of `generate`, a row each: kind, interval, default, neutral value, help, flag, what it does to scores.

Enters: nothing. Leaves: `OPTIONS`, which all else follows from: what is checked (`options.py`), how scores are changed
and in which order (`logits_processors.py`), the command line's flags (`cli/flags.py`), the table in
`docs/generation.md`. A new option is a row here and a function in `edits.py` or `warpers.py`. Python's types are
static, so that it also has a line in each of the two classes of `options.py`, which a test compares with the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pumice.generation.edits import (
    Edit,
    make_bias,
    make_division,
    make_frequency_penalty,
    make_no_bad_words,
    make_no_end,
    make_no_repeated_ngrams,
    make_presence_penalty,
    make_repetition_penalty,
)
from pumice.generation.warpers import Warper, make_min_p, make_top_k, make_top_p, make_typical_p, make_xtc
from pumice.manifest.intervals import INTERVALS, MOST_STOP_STRINGS, Interval

if TYPE_CHECKING:
    from pumice.generation.options import GenerationOptions

Kind: TypeAlias = Literal[
    "whole number", "number", "flag", "token ids", "bad words", "biases", "texts", "early stopping", "logprobs",
    "JSON schema", "regex",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How the command line has an option; without a `name`, by the option's own."""

    metavar: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Args:
        name: transformers' where it has one.
        kind: what callers give, and how it is checked.
        help: what it does, in the docs and on the command line.
        interval: where numbers lie; None where there is none, or where it depends on the model.
        default: where neither the caller nor the checkpoint says; None says nothing.
        neutral: the value that does nothing; of those with an `edit` or a `warper`, which are made for others only.
        sampling: without do_sample it does nothing.
        edit: what it does to scores, made from all options and the prompt's length; edits come before warpers.
        warper: which tokens it leaves, made from all options.
        flag: its flag; None: it has none.
        interval_shown: the interval in the docs, where it is not the numbers of `interval`.
        default_shown: the default in the docs, where it is not `default`.
    """

    name: str
    kind: Kind
    help: str
    interval: Interval | None = None
    default: Any = None
    neutral: Any = None
    sampling: bool = False
    edit: Callable[[GenerationOptions, int], Edit | None] | None = None
    warper: Callable[[GenerationOptions], Warper] | None = None
    flag: Flag | None = None
    interval_shown: str = ""
    default_shown: str = ""


def _least(options: GenerationOptions) -> int:
    """Tokens that warpers leave: beams need something to go on with beside the tokens that end them."""
    return max(2, len(options.eos_token_id) + 1) if options.num_beams > 1 else 1


OPTIONS: tuple[Option, ...] = (
    Option(
        name="max_new_tokens", kind="whole number", default=256, flag=Flag(metavar="N"),
        interval_shown="1 … context",
        help="tokens of an answer at most; the context's end ends it, too",
    ),
    Option(
        name="logit_bias", kind="biases", interval=Interval(low=-10_000, high=10_000), default=(), neutral=(),
        edit=lambda o, _: make_bias(o.logit_bias),
        interval_shown="−10,000 … 10,000 each",
        help="by token id, what is added to its score, before all else",
    ),
    Option(
        name="repetition_penalty", kind="number", interval=INTERVALS["repetition_penalty"], default=1.0, neutral=1,
        edit=lambda o, _: make_repetition_penalty(o.repetition_penalty), flag=Flag(metavar="X"),
        help="what was said, in prompt or answer, becomes less likely above 1",
    ),
    Option(
        name="frequency_penalty", kind="number", interval=Interval(low=-2, high=2), default=0.0, neutral=0,
        edit=lambda o, prompt_length: make_frequency_penalty(o.frequency_penalty, prompt_length),
        flag=Flag(metavar="X"),
        help="OpenAI's: a token's score loses this for every time that it stands in the answer so far",
    ),
    Option(
        name="presence_penalty", kind="number", interval=Interval(low=-2, high=2), default=0.0, neutral=0,
        edit=lambda o, prompt_length: make_presence_penalty(o.presence_penalty, prompt_length),
        flag=Flag(metavar="X"),
        help="OpenAI's: a token's score loses this once it stands in the answer so far",
    ),
    Option(
        name="no_repeat_ngram_size", kind="whole number", interval=INTERVALS["no_repeat_ngram_size"], default=0,
        neutral=0, edit=lambda o, _: make_no_repeated_ngrams(o.no_repeat_ngram_size), flag=Flag(metavar="N"),
        help="so many tokens in a row never come twice, in prompt and answer together; 0: off",
    ),
    Option(
        name="bad_words_ids", kind="bad words", default=(), neutral=(),
        edit=lambda o, _: make_no_bad_words(o.bad_words_ids, o.eos_token_id),
        help="sequences of token ids that never come",
    ),
    Option(
        name="min_new_tokens", kind="whole number", default=0, neutral=0, flag=Flag(metavar="N"),
        edit=lambda o, prompt_length: make_no_end(o.eos_token_id, prompt_length + o.min_new_tokens),
        interval_shown="0 … `max_new_tokens`",
        help="tokens of an answer at least: no end token comes before",
    ),
    Option(
        name="do_sample", kind="flag", default=False, flag=Flag(),
        help="draw tokens; else the most likely is taken, and what is for sampling does nothing",
    ),
    Option(
        name="temperature", kind="number", interval=INTERVALS["temperature"], default=1.0, neutral=1, sampling=True,
        edit=lambda o, _: make_division(o.temperature), flag=Flag(metavar="X"),
        help="scores are divided by it; 0 takes the most likely token, as if `do_sample` were False",
    ),
    Option(
        name="top_k", kind="whole number", interval=INTERVALS["top_k"], default=50, neutral=0, sampling=True,
        warper=lambda o: make_top_k(o.top_k, _least(o)), flag=Flag(metavar="N"),
        help="from this many most likely tokens; 0: off",
    ),
    Option(
        name="top_p", kind="number", interval=INTERVALS["top_p"], default=1.0, neutral=1, sampling=True,
        warper=lambda o: make_top_p(o.top_p, _least(o)), flag=Flag(metavar="P"),
        help="from the smallest set of most likely tokens that have this probability together; 1: off",
    ),
    Option(
        name="min_p", kind="number", interval=INTERVALS["min_p"], default=0.0, neutral=0, sampling=True,
        warper=lambda o: make_min_p(o.min_p, _least(o)), flag=Flag(metavar="P"),
        help="from tokens at least so many times as likely as the most likely; 0: off",
    ),
    Option(
        name="typical_p", kind="number", interval=INTERVALS["typical_p"], default=1.0, neutral=1, sampling=True,
        warper=lambda o: make_typical_p(o.typical_p, _least(o)), flag=Flag(metavar="P"),
        help="from tokens nearest to the expected surprise, of this probability together (arXiv:2202.00666); 1: off",
    ),
    Option(
        name="xtc_probability", kind="number", interval=Interval(low=0, high=1), default=0.0, neutral=0, sampling=True,
        warper=lambda o: make_xtc(o.xtc_probability, o.xtc_threshold, _least(o), o.eos_token_id),
        flag=Flag(metavar="P"),
        help="how often, by chance, tokens of `xtc_threshold` or more all go but the least likely; 0: never",
    ),
    Option(
        name="xtc_threshold", kind="number", interval=Interval(low=0, high=0.5), default=0.1, sampling=True,
        flag=Flag(metavar="P"),
        help="the probability from which on `xtc_probability` takes tokens away",
    ),
    Option(
        name="seed", kind="whole number", interval=Interval(low=0, high=2**64 - 1), sampling=True,
        flag=Flag(metavar="N"),
        interval_shown="0 … 2⁶⁴ − 1",
        help="the same draws every time, whatever else runs",
    ),
    Option(
        name="num_return_sequences", kind="whole number", interval=Interval(low=1, high=64), default=1,
        flag=Flag(metavar="N"),
        help="answers to each prompt; asks for `do_sample` or beams",
    ),
    Option(
        name="num_beams", kind="whole number", interval=INTERVALS["num_beams"], default=1, flag=Flag(metavar="N"),
        help="beam search over so many continuations; 1: none",
    ),
    Option(
        name="length_penalty", kind="number", interval=INTERVALS["length_penalty"], default=1.0,
        flag=Flag(metavar="X"),
        help="above 0 beam search prefers long answers, below 0 short ones",
    ),
    Option(
        name="early_stopping", kind="early stopping", default=False,
        interval_shown='False, True, "never"',
        help="beam search ends once `num_beams` answers end (True), by an estimate (False), or \"never\" too early",
    ),
    Option(
        name="eos_token_id", kind="token ids",
        interval_shown="one or several", default_shown="the checkpoint's",
        help="tokens that end an answer; `[]`: none does",
    ),
    Option(
        name="stop_strings", kind="texts", default=(), flag=Flag(metavar="TEXT", name="--stop"),
        interval_shown=f"up to {MOST_STOP_STRINGS}",
        help="texts that end an answer, and are no part of its text",
    ),
    Option(
        name="logprobs", kind="logprobs", interval=Interval(low=0, high=20), flag=Flag(metavar="N"),
        help="log-probabilities of chosen tokens, and of so many most likely ones beside them",
    ),
    Option(
        name="json_schema", kind="JSON schema", flag=Flag(metavar="FILE"),
        help="answers are JSON that fits this schema",
    ),
    Option(
        name="regex", kind="regex", flag=Flag(metavar="REGEX"),
        help="answers match this regular expression from beginning to end",
    ),
    Option(
        name="prompt_lookup_num_tokens", kind="whole number", interval=Interval(low=0, high=64),
        default_shown="automatic", flag=Flag(metavar="N"),
        help="tokens drafted from prompt and answer, and verified together; 0: none",
    ),
    Option(
        name="continue_final_message", kind="flag", default=False,
        help="the answer goes on with the last of the messages instead of answering it",
    ),
    Option(
        name="add_generation_prompt", kind="flag", default_shown="unless the last message goes on",
        help="the prompt ends with the beginning of an answer, as the chat template has it",
    ),
)  # fmt: skip
"""In the order in which scores are changed, which is transformers': its processors, then what is for sampling."""


def table_rows() -> list[str]:
    """The rows of the table in `docs/generation.md`: option, interval, default, meaning."""
    return [
        f"| `{o.name}` | {o.interval_shown or _interval_shown(o.interval)} | {o.default_shown or _default_shown(o)} "
        f"| {'sampling: ' if o.sampling else ''}{o.help} |"
        for o in OPTIONS
    ]


def _interval_shown(interval: Interval | None) -> str:
    if interval is None:
        return ""
    shown = f"{interval.low:,} … {interval.high:,}".replace("-", "−")  # a minus sign, not a hyphen
    return f"above {shown}" if interval.above else shown


def _default_shown(option: Option) -> str:
    if option.default is None or option.default == ():
        return "none"
    return f"{option.default:g}" if option.kind == "number" else str(option.default)
