"""A conversation on a terminal of its own: by prompt_toolkit, by readline, and on a dumb one."""

import json
import os
import re
import select
import stat
from pathlib import Path

import pytest
from PIL import Image

from ..test_main import Terminal

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads

PASTE = "\x1b[200~{}\x1b[201~"


class Session:
    """A terminal of a kind, in a folder of its own."""

    def __init__(self, kind: str, bundle: Path, folder: Path) -> None:
        state = {"XDG_STATE_HOME": str(folder), "PUMICE_NO_HISTORY": "", "COLUMNS": "24", "LINES": "20"}
        state["TERM"] = "dumb" if kind == "dumb" else "xterm"
        if kind != "prompt_toolkit":
            hidden = folder / "hidden"  # apart from the state, whose folder is called as the package is
            hidden.mkdir(exist_ok=True)
            (hidden / "prompt_toolkit.py").write_text("raise ImportError('hidden')\n")
            state["PYTHONPATH"] = f"{hidden}:{os.environ.get('PYTHONPATH', '')}"
        self.folder, self.saved = folder, 0
        self.terminal = Terminal("run", str(bundle), "--device", "cpu", "--max-new-tokens", "3", **state)
        self.terminal.wait_for("/help lists")

    def enter(self, text: str, shown: str | None = None) -> None:
        self.terminal.type(text + "\r")
        if shown is not None:
            self.terminal.wait_for(shown)
        self.terminal.wait_until_it_sleeps()

    def questions(self) -> list[str]:
        """Those of the conversation so far."""
        self.saved += 1
        self.enter(f"/save {self.folder}/{self.saved}", "saved to")
        document = json.loads((self.folder / str(self.saved)).read_text())
        return [m["content"][-1]["text"] for m in document["messages"] if m["role"] == "user"]

    def leave(self) -> None:
        self.terminal.type("\x04")
        self.terminal.seen = ""
        assert self.terminal.exit_code() == 0


@pytest.fixture(params=["prompt_toolkit", "readline", "dumb"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != "dumb":
        pytest.importorskip(name)
    return name


def test_several_lines_wide_characters_and_an_image(kind: str, pebble_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "赤い 絵.png")
    session = Session(kind, pebble_bundle, tmp_path)
    session.enter(f"/image '{tmp_path}/赤い 絵.png'", "tokens)")
    session.enter('"""これは\r/何?"""')
    questions = ["これは\n/何?"]
    if kind != "dumb":
        session.enter(PASTE.format("one\rtwo\r三"))
        questions.append("one\ntwo\n三")
    assert session.questions() == questions
    session.enter("/stats", "prompt:")
    session.leave()


def test_history_over_sessions(kind: str, pebble_bundle: Path, tmp_path: Path) -> None:
    first = Session(kind, pebble_bundle, tmp_path)
    first.enter("What is it?")
    assert first.questions() == ["What is it?"]
    first.leave()
    kept = tmp_path / "pumice" / "chat_history"
    assert json.loads(kept.read_text().splitlines()[0]) == "What is it?"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    if kind == "dumb":
        return
    second = Session(kind, pebble_bundle, tmp_path)
    second.saved = 1
    second.enter("\x1b[A\x1b[A")  # behind /save, the question
    assert second.questions() == ["What is it?"]
    second.leave()


def test_completion_and_ctrl_c(kind: str, pebble_bundle: Path, tmp_path: Path) -> None:
    if kind == "dumb":
        pytest.skip("a dumb terminal completes nothing")
    session = Session(kind, pebble_bundle, tmp_path)
    session.enter("/set max_n\t2", "max_new_tokens = 2")
    session.terminal.wait_until_it_sleeps()
    session.terminal.type("half a ques\x03")
    session.terminal.wait_until_it_sleeps()
    session.enter("Hi")
    assert session.questions() == ["Hi"]
    session.leave()


def test_nothing_is_coloured(kind: str, pebble_bundle: Path, tmp_path: Path) -> None:
    session = Session(kind, pebble_bundle, tmp_path)
    for typed in ("Hi", "/stats"):
        session.enter(typed)
    seen = session.terminal.seen
    while select.select([session.terminal.fd], [], [], 0)[0]:
        seen += os.read(session.terminal.fd, 4096).decode(errors="replace")
    assert "prompt:" in seen
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", seen)
    session.leave()
