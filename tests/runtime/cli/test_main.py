import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import pumice
from pumice.cli import main


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pumice", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("pumice: running on")]
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("pumice: error: ")
    return lines[0]


def test_a_question_about_an_image(
    pebble_bundle: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(pebble_bundle), "-i", image, "What is in this picture?", "--device", "cpu"]
    assert main([*arguments, "--max-new-tokens", "8"]) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json", "--max-new-tokens", "8"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert text == answer["text"].lstrip() + "\n"
    assert set(answer) == {"text", "token_ids", "finish_reason", "logprobs", "usage", "timings"}
    expected = pumice.load(pebble_bundle, device="cpu").generate(
        "What is in this picture?", image, max_new_tokens=8
    )
    assert answer["token_ids"] == expected.token_ids


@pytest.mark.parametrize(
    "order", [["-i", "{p}", "{b}", "Hi"], ["{b}", "Hi", "-i", "{p}"], ["{b}", "-i", "{p}", "Hi"]]
)
def test_options_and_the_prompt_in_any_order(order: list[str], pebble_bundle: Path, image: str) -> None:
    arguments = [word.format(b=pebble_bundle, p=image) for word in order]
    assert main(["run", *arguments, "--max-new-tokens", "1"]) == 0


def test_a_prompt_from_standard_input(pebble_bundle: Path) -> None:
    given = run("run", str(pebble_bundle), "Hi", "--json", "--max-new-tokens", "4")
    for arguments in ([], ["-"]):
        piped = run("run", str(pebble_bundle), *arguments, "--json", "--max-new-tokens", "4", stdin=b"Hi\n")
        assert json.loads(piped.stdout)["token_ids"] == json.loads(given.stdout)["token_ids"]
    assert run("run", str(pebble_bundle), stdin=b"").returncode == 2
    assert run("run", str(pebble_bundle), stdin=b"\xff").returncode == 2


def test_raw_prompts(pebble_bundle: Path, image: str) -> None:
    prompt = "USER: <image>\nHi ASSISTANT:"
    assert main(["run", str(pebble_bundle), "--raw", "-i", image, prompt, "--max-new-tokens", "1"]) == 0
    assert main(["run", str(pebble_bundle), "--raw", prompt]) == 1


class _Everything:
    """A set that holds whatever is asked for."""

    def __contains__(self, _: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["frobnicate"], 2),
        (["run"], 2),
        (["run", "{b}", "Hi", "--frobnicate"], 2),
        (["run", "{b}", "Hi", "there"], 2),
        (["run", "{b}", "Hi", "--device", "gpu"], 2),
        (["run", "{b}", "Hi", "--threads", "0"], 2),
        (["run", "{b}", "Hi", "--max-new-tokens", "0"], 2),
        (["run", "{b}", "Hi", "--max-new-tokens", "many"], 2),
        (["run", "{b}", "Hi", "--device", "cuda"], 3),
        (["run", "missing", "Hi"], 1),
        (["run", "{b}", "-i", "missing.png", "Hi"], 1),
        (["run", "{b}", "-i", "https://example.org/a.png", "Hi"], 1),
        (["info", "missing"], 1),
    ],
)
def test_failures_are_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    pebble_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("pumice.sessions.device._said", _Everything())  # which is said once in a process
    assert main([argument.format(b=pebble_bundle) for argument in arguments]) == code
    error_line(capsys)


def test_a_traceback_is_shown_on_request_only() -> None:
    assert b"Traceback" not in run("info", "missing").stderr
    assert b"Traceback" in run("info", "missing", PUMICE_DEBUG="1").stderr


def test_an_unforeseen_failure_is_one_line_too(
    pebble_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pumice.bundle.folder.open_bundle", lambda path: 1 / 0)
    assert main(["info", str(pebble_bundle)]) == 1
    assert "ZeroDivisionError" in error_line(capsys)


def test_info_for_people_and_machines(pebble_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(pebble_bundle)]) == 0
    table = capsys.readouterr().out
    for word in ("precision", "fp32", "vision_encoder", "onnxruntime", "parity"):
        assert word in table
    assert main(["info", str(pebble_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((pebble_bundle / "manifest.json").read_text())


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith(f"pumice {pumice.__version__}\n")


def test_a_reader_that_has_enough_is_no_failure_to_shout_about(pebble_bundle: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pumice", "info", str(pebble_bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


class Terminal:
    """A command on a terminal of its own, with a model that says the same token for ever."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            alone = {"TERM": "dumb", "PUMICE_NO_HISTORY": "1"}
            program = [sys.executable, "-c", MONOTONOUS, *arguments]
            os.execve(sys.executable, program, {**os.environ, **alone, **environment})
        self.pid, self.seen = pid, ""

    def wait_for(self, text: str) -> None:
        """Read until `text` appears, and forget what came up to there."""
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], 300)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"waited for {text!r}, saw {self.seen!r}")
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def wait_until_it_sleeps(self) -> None:
        """`input()` misses an interrupt between its prompt and its first wait for a key."""
        asleep = 0
        while asleep < 20:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state not in "ZX", f"the command has ended, having said {self.seen!r}"
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


MONOTONOUS = (
    "import sys, pumice.generation.make as a; a.make_sampler = lambda options: lambda logits, rng: 300\n"
    "from pumice.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads
def test_a_chat_on_a_terminal(pebble_bundle: Path, image: str) -> None:
    terminal = Terminal("run", str(pebble_bundle), "-i", image, "--max-new-tokens", "4")
    for typed, shown in [
        (None, "[1 image] > "),
        ("What is in this picture?\n", "\r\n> "),
        ("/again\n", "\r\n> "),
        ("/undo\n", "\r\n> "),
        ("/undo\n", "there is no turn -1: the conversation has 0\r\n> "),
        ("/image missing.png\n", "pumice: error: there is no image 'missing.png'\r\n> "),
        (f"/image {image}\n", "[image image.png (36 tokens)]\r\n[1 image] > "),
        ("/reset\n", "\r\n> "),
        ("/help\n", "leave (so does Ctrl-D); Ctrl-C stops an answer\r\n> "),
        ("/frobnicate\n", "no such command: /frobnicate; /help lists them\r\n> "),
        ("\x03", "\r\n> "),
    ]:
        if typed == "\x03":
            terminal.wait_until_it_sleeps()
        if typed is not None:
            terminal.type(typed)
        terminal.wait_for(shown)
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_an_interrupt_stops_without_a_traceback(pebble_bundle: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MONOTONOUS, "run", str(pebble_bundle), "Hi", "--max-new-tokens", "1500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-p", "1.5"], "top_p is 1.5, expected 0 to 1"),
        (["--num-beams", "0"], "num_beams is 0, expected 1 to 64"),
        (["--regex", "(", "--stop", "."], "the regular expression cannot be used"),
        (["--json-schema", "missing.json"], "the schema 'missing.json' cannot be read"),
        (["--min-new-tokens", "9", "--max-new-tokens", "8"], r"min_new_tokens is 9, expected 0 to 8"),
    ],
)
def test_options_outside_their_intervals(
    arguments: list[str], message: str, pebble_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(pebble_bundle), "Hi", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_options_of_generation(
    pebble_bundle: Path, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", str(pebble_bundle), "-i", image, "What is in this picture?", "--device", "cpu", "--json"]

    def answer(*arguments: str) -> str:
        assert main([*run, "--max-new-tokens", "12", *arguments]) == 0
        text: str = json.loads(capsys.readouterr().out)["text"]
        return text

    likeliest = answer()
    assert answer("--temperature", "0") == likeliest
    drawn = {answer("--temperature", "3", "--seed", str(seed)) for seed in range(4)}
    assert len(drawn) > 1
    assert answer("--temperature", "3", "--seed", "0") in drawn
    unlikely = ("--xtc-probability", "1", "--xtc-threshold", "0.001", "--top-k", "0", "--seed", "0")
    assert answer(*unlikely) == answer(*unlikely) != likeliest
    assert answer("--frequency-penalty", "-2", "--presence-penalty", "-2") != likeliest
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    assert answer("--json-schema", str(tmp_path / "schema.json")).strip() in ('"yes"', '"no"')
    assert answer("--regex", "[0-9]{3}").strip().isdigit()
    assert answer("--stop", likeliest[3:6]) == likeliest[:3]


@pytest.mark.parametrize(("loaded", "told"), [("torch", ""), ("heapq", "taken apart\n")])
def test_a_process_with_torch_is_not_taken_apart(loaded: str, told: str) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(print, 'taken apart')\n"
        f"sys.modules['{loaded}'] = sys\n"
        "from pumice.cli import main\n"
        "sys.argv = ['pumice', 'info', 'nowhere']\n"
        "sys.exit(main())\n"
    )
    left = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert left.returncode == 1
    assert left.stdout == told
    assert left.stderr.startswith("pumice: error: ")
    assert left.stderr.count("\n") == 1
