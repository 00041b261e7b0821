"""Words on the command line: questions that look like flags, and one vocabulary over all commands."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from pumice.cli import main
from pumice.cli.commands import COMMANDS
from pumice.cli.parsing import build, parse
from pumice.errors import UsageError


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["b", "--", "--what?"], "--what?"),
        (["b", "-i", "a.png", "--", "--what?"], "--what?"),
        (["-i", "a.png", "--", "b", "--what?"], "--what?"),
        (["b", "--", "-i"], "-i"),
        (["b", "--", "--json"], "--json"),
        (["b", "--", "---"], "---"),
        (["--top-k", "5", "b", "-i", "a.png", "What?"], "What?"),
        (["b", "--what is it?"], "--what is it?"),
        (["b", "- is it a dash?", "-i", "a.png"], "- is it a dash?"),
        (["b", "-5"], "-5"),
        (["b", "-qi", "a.png", "-.5"], "-.5"),
    ],
)
def test_questions_that_look_like_flags(words: list[str], prompt: str) -> None:
    args = parse(["run", *words])
    assert (args.bundle, args.prompt, args.image) == ("b", prompt, ["a.png"] if "a.png" in words else [])


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--prompt", "--what?"], "asked", "--what?"),
        (["--prompt=--what?"], "asked", "--what?"),
        (["--system", "- be brief", "--raw"], "system", "- be brief"),
        (["--stop", "---", "--stop", "-"], "stop_strings", ["---", "-"]),
        (["-i", "-x.png", "-i-y.png"], "image", ["-x.png", "-y.png"]),
        (["-qi", "-x.png"], "image", ["-x.png"]),
        (["--length-penalty", "-1"], "length_penalty", -1.0),
        (["--regex", "--?"], "regex", "--?"),
        (["--max-new", "5"], "max_new_tokens", 5),
    ],
)
def test_values_that_look_like_flags(words: list[str], name: str, value: object) -> None:
    assert getattr(parse(["run", "b", *words]), name) == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "b", "--what?"], "goes behind --"),
        (["run", "b", "--prompt", "--json"], "expected one argument"),
        (["run", "b", "Hi", "--prompt"], "expected one argument"),
        (["run", "b", "--prompt", "--"], "expected one argument"),
        (["run", "b", "Hi", "there"], "unrecognized arguments: there;"),
        (["run", "--", "b", "Hi", "--json"], "unrecognized arguments: --json"),
        (["run", "b", "--frequency", "1", "--p", "x"], "ambiguous option: --p"),
        (["info", "b", "--what"], "unrecognized arguments: --what; see pumice info --help"),
        (["--what"], "see pumice --help"),
    ],
)
def test_what_cannot_be_read_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(words)
    assert message in str(refused.value)


def test_two_questions_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "b", "Hi", "--prompt", "Ho"]) == 2
    assert "two prompts" in capsys.readouterr().err


def flags() -> list[tuple[str, argparse.Action]]:
    return [(name, action) for name, parser in build()[1].items() for action in parser._actions]


def shown() -> list[tuple[str, argparse.Action]]:
    return [(name, action) for name, action in flags() if action.help != argparse.SUPPRESS]


def test_a_flag_is_the_same_in_all_commands() -> None:
    """One spelling has one metavar, one short form and one type; prompts and images may be several."""
    seen: dict[str, tuple[object, ...]] = {}
    for name, action in shown():
        for spelling in action.option_strings:
            kind = int if action.type is int else float if action.type is float else "text"
            what = (action.metavar, tuple(action.option_strings), action.nargs, kind)
            assert seen.setdefault(spelling, what) == what, (name, spelling)


def test_every_command_can_be_quiet_and_verbose() -> None:
    for name in COMMANDS:
        spellings = {s for command, action in shown() if command == name for s in action.option_strings}
        assert {"-q", "--quiet", "-v", "--verbose", "-h", "--help"} <= spellings, name


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["batch", "b", "in", "-o", "out.jsonl", "--context", "9"], "context_length", 9),
        (["info", "b", "--context", "9"], "context_length", 9),
        (["info", "b", "--batch", "9"], "slots", 9),
        (
            ["bench", "b", "--context", "9", "--context-length", "8", "--context", "7"],
            "context_length",
            [9, 8, 7],
        ),
        (["bench", "b", "--prompt", "9"], "prompt_length", 9),
        (["bench", "b", "--new", "9"], "max_new_tokens", 9),
        (["export", "c", "b", "--context", "9"], "context_length", 9),
    ],
)
def test_old_spellings_stay(words: list[str], name: str, value: object) -> None:
    assert getattr(parse(words), name) == value


def test_old_spellings_are_not_shown() -> None:
    hidden = {s for _, action in flags() if action.help == argparse.SUPPRESS for s in action.option_strings}
    assert hidden == {"--context", "--batch", "--prompt", "--new"}


def test_a_system_prompt(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pumice

    words = ["run", str(pebble_bundle), "Hi", "--system", "- Be brief.", "--json", "--max-new-tokens", "6"]
    assert main([*words, "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    chat = pumice.load(pebble_bundle, device="cpu").chat(system="- Be brief.")
    expected = chat.send("Hi", max_new_tokens=6)
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
    assert main([*words, "--raw"]) == 2
    assert "--raw and --system" in capsys.readouterr().err


def test_several_answers(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pumice

    beams = ["--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "6"]
    words = ["run", str(pebble_bundle), "Hi", "--device", "cpu", *beams]
    assert main([*words, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    model = pumice.load(pebble_bundle, device="cpu")
    expected = model.generate("Hi", num_beams=3, num_return_sequences=2, max_new_tokens=6)
    assert isinstance(expected, list)
    assert [answer["token_ids"] for answer in answers] == [answer.token_ids for answer in expected]
    assert main(words) == 0
    assert capsys.readouterr().out == "\n".join(answer.text.lstrip() + "\n" for answer in expected)
    assert main(["run", str(pebble_bundle), "Hi", "--num-return-sequences", "2"]) == 2


def test_a_shorter_context(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pumice

    words = ["run", str(pebble_bundle), "Hi", "--device", "cpu", "--max-new-tokens", "40", "--json"]
    bare = pumice.load(pebble_bundle, device="cpu").prepare("Hi").input_ids.shape[1]
    assert main([*words, "--context-length", str(bare + 1)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["token_ids"]) == 1
    assert answer["finish_reason"] == "length"
    assert main([*words, "--context-length", str(bare)]) == 1
    assert f"the limited context of {bare} leaves no room" in capsys.readouterr().err
    for wrong in ("0", "-1", "1000000"):
        assert main([*words, "--context-length", wrong]) == 2
        assert f"context_length is {wrong}, expected 1 to 2,048" in capsys.readouterr().err


def test_low_memory(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", str(pebble_bundle), "Hi", "--device", "cpu", "--max-new-tokens", "4"]
    assert main(words) == 0
    expected = capsys.readouterr().out
    assert main([*words, "--low-memory"]) == 0
    assert capsys.readouterr().out == expected


def test_why_there_is_no_gpu_is_told_on_request(
    pebble_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    words = ["run", str(pebble_bundle), "Hi", "--max-new-tokens", "2"]
    for more, told in (([], False), (["-v"], True), ([], False), (["--device", "cpu", "-v"], False)):
        monkeypatch.setattr("pumice.sessions.device._said", set())
        assert main([*words, *more]) == 0
        assert ("running on the CPU" in capsys.readouterr().err) is told
    assert main([*words, "--device", "cuda"]) == 3
    assert "has no CUDA provider" in capsys.readouterr().err
