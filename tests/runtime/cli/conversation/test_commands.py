"""Every command on a conversation without a terminal."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from PIL import Image

import pumice
from pumice.cli import chat as loop
from pumice.cli.conversation import readers
from pumice.cli.conversation.commands import BY_NAME, COMMANDS
from pumice.cli.conversation.state import Conversation
from pumice.cli.conversation.typed import Typed
from pumice.errors import ContextLengthError, ImageError, PromptError, PumiceError, UsageError
from pumice.model import Model

DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture
def talk(model: Model) -> Conversation:
    return Conversation(model.chat(max_new_tokens=6))


@pytest.fixture
def png(tmp_path: Path) -> Path:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    Image.new("RGB", (40, 50), "blue").save(tmp_path / "blue.png")
    return tmp_path / "red.png"


def do(talk: Conversation, line: str) -> str:
    """What a command says; of an answer, its text."""
    name, _, argument = line[1:].partition(" ")
    said = BY_NAME[name].run(talk, argument)
    if isinstance(said, AbstractContextManager):
        with said as stream:
            return "".join(stream)
    return said


def ask(talk: Conversation, text: str) -> str:
    with talk.asked(text) as stream:
        return "".join(stream)


def typed(talk: Conversation, text: str) -> None:
    loop._do(talk, Typed(text=text))


def test_images_wait_and_are_asked_about(talk: Conversation, png: Path) -> None:
    assert do(talk, f"/image {png} {png.with_name('blue.png')}").splitlines() == [
        "[image red.png (36 tokens)]", "[image blue.png (36 tokens)]",
    ]  # fmt: skip
    assert "1  red.png" in do(talk, "/images")
    assert do(talk, "/drop 1") == "dropped red.png"
    ask(talk, "What is it?")
    assert talk.waiting == []
    assert do(talk, "/images") == "question 1: blue.png (36 tokens)"
    do(talk, f"/image {png}")
    do(talk, f"/image {png}")
    assert do(talk, "/drop").count("dropped") == 1
    assert do(talk, "/drop all") == "dropped red.png"
    with pytest.raises(UsageError, match="no image waits"):
        do(talk, "/drop")


@pytest.mark.parametrize("number", ["0", "3", "-1", "x", "²", "1 2"])
def test_a_number_of_no_image_drops_none(talk: Conversation, png: Path, number: str) -> None:
    do(talk, f"/image {png} {png}")
    with pytest.raises(UsageError, match="from 1 to 2"):
        do(talk, f"/drop {number}")
    assert len(talk.waiting) == 2


def test_a_mistyped_image_changes_nothing(talk: Conversation, png: Path) -> None:
    png.with_name("broken.png").write_bytes(b"\x89PNG\r\n")
    for wrong in ("missing.png", f"{png} missing.png", str(png.parent), str(png.with_name("broken.png"))):
        with pytest.raises(ImageError):
            do(talk, f"/image {wrong}")
    with pytest.raises(UsageError, match="wants a path"):
        do(talk, "/image")
    assert talk.waiting == []
    assert ask(talk, "What is it?")


def test_images_that_fill_the_context_are_refused_when_typed(talk: Conversation, png: Path) -> None:
    context = talk.chat.pipeline.manifest.decoder.context_length
    with pytest.raises(ContextLengthError, match="nothing was added"):
        talk.look_at([str(png)] * (context // 36 + 1))


def test_what_happens_to_the_file_later_changes_nothing(
    talk: Conversation, png: Path, tmp_path: Path
) -> None:
    data = png.read_bytes()
    do(talk, f"/image {png}")
    png.unlink()
    ask(talk, "What is it?")
    do(talk, f"/save {tmp_path / 'talk.json'}")
    part = json.loads((tmp_path / "talk.json").read_text())["messages"][0]["content"][0]
    assert base64.b64decode(part["url"].partition(",")[2]) == data


def test_a_failing_question_leaves_its_images_waiting(talk: Conversation, png: Path) -> None:
    do(talk, f"/image {png}")
    with pytest.raises(ContextLengthError):
        ask(talk, "word " * 20_000)
    assert (len(talk.waiting), talk.questions) == (1, 0)
    with pytest.raises(ContextLengthError):
        typed(talk, f"{png.with_name('blue.png')} " + "word " * 1_900)
    assert [image.name for image in talk.waiting] == ["red.png"]
    ask(talk, "What is it?")
    assert (len(talk.waiting), talk.questions) == (0, 1)


def test_dropped_files(talk: Conversation, png: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(talk, f"'{png}' ")
    assert (len(talk.waiting), talk.questions) == (1, 0)
    typed(talk, f"What differs? {png.with_name('blue.png')}")
    assert capsys.readouterr().out.count("[image ") == 2
    content = talk.chat.messages[0]["content"]
    assert [part["type"] for part in content] == ["image", "image", "text"]
    assert content[-1]["text"] == "What differs?"
    with pytest.raises(ImageError, match="nothing was asked"):
        typed(talk, f"{png.parent}/none.png What is it?")
    with pytest.raises(UsageError, match="did you mean /images"):
        typed(talk, "/imags")
    loop._do(talk, Typed(text=f"{png}", verbatim=True))
    assert talk.chat.messages[2]["content"] == [{"type": "text", "text": str(png)}]


def test_a_system_prompt_holds_from_the_beginning(talk: Conversation, model: Model) -> None:
    ask(talk, "What is it?")
    assert "from the beginning" in do(talk, "/system You are brief.")
    answer = ask(talk, "And now?")
    expected = model.generate(list(talk.chat.messages)[:-1], max_new_tokens=6)
    assert answer == expected.text
    assert [message["role"] for message in talk.chat.messages][:2] == ["system", "user"]
    assert do(talk, "/system") == "You are brief."
    do(talk, "/reset")
    assert talk.chat.system == "You are brief."
    do(talk, '/system ""')
    assert talk.chat.messages == ()
    assert do(talk, "/set system Be kind.") == "the system prompt is set"


def test_a_system_prompt_that_does_not_fit_is_refused_when_typed(talk: Conversation) -> None:
    ask(talk, "What is it?")
    with pytest.raises(ContextLengthError):
        do(talk, "/system " + "word " * 20_000)
    assert talk.chat.system is None
    assert ask(talk, "And now?")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/set temperature 0.5", "temperature", 0.5),
        ("/set parameter top-k 3", "top_k", 3),
        ("/set --max-new-tokens 4", "max_new_tokens", 4),
        ('/set stop "a b" END', "stop_strings", ("a b", "END")),
        ("/set do_sample on", "do_sample", True),
        ("/set eos_token_id [2, 7]", "eos_token_id", (2, 7)),
        ("/set early_stopping never", "early_stopping", "never"),
        ('/set logit_bias {"5": -1}', "logit_bias", ((5, -1.0),)),
        ("/set seed 7", "seed", 7),
    ],
)
def test_settings(talk: Conversation, line: str, name: str, value: object) -> None:
    assert "(set)" in do(talk, line)
    assert getattr(talk.chat.pipeline.options(talk.chat.options), name) == value
    assert f"{name} = " in do(talk, "/set")
    do(talk, f"/set {name} default")
    if name != "max_new_tokens":
        assert talk.chat.options == {"max_new_tokens": 6}


def test_sampling_is_asked_for_as_by_flags(talk: Conversation) -> None:
    do(talk, "/set temperature 0.5")
    assert talk.chat.options["do_sample"]
    assert "do_sample" not in talk.given
    do(talk, "/set temperature 0")
    assert "do_sample" not in talk.chat.options
    do(talk, "/set do_sample off")
    do(talk, "/set temperature 0.5")
    assert talk.chat.options["do_sample"] is False


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/set temperature hot", "temperature is 'hot', expected a number"),
        ("/set temperature nan", "temperature is nan"),
        ("/set top_p 1.5", "top_p is 1.5, expected 0 to 1"),
        ("/set top_k 2.5", "expected a whole number"),
        ("/set do_sample maybe", "expected on or off"),
        ("/set temprature 1", "did you mean temperature"),
        ("/set eos_token_id [99999999]", "eos_token_id"),
        ("/set json_schema none.json", "the schema 'none.json'"),
        ("/set num_return_sequences 2", "num_return_sequences"),
    ],
)
def test_settings_that_cannot_be(talk: Conversation, line: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        do(talk, line)
    assert talk.chat.options == {"max_new_tokens": 6}
    assert ask(talk, "Hi")


def test_retry_takes_another_seed(talk: Conversation, model: Model) -> None:
    with pytest.raises(UsageError):
        do(talk, "/retry")
    for line in ("/set temperature 5", "/set top_k 0", "/set seed 3"):
        do(talk, line)
    answers = [ask(talk, "What is it?"), do(talk, "/retry"), do(talk, "/again")]
    expected = [
        model.generate(
            "What is it?", max_new_tokens=6, do_sample=True, temperature=5.0, top_k=0, seed=seed
        ).text
        for seed in (3, 4, 5)
    ]
    assert answers == expected
    assert talk.questions == 1


def test_stats(talk: Conversation, png: Path) -> None:
    assert do(talk, "/stats") == "there is no answer yet"
    do(talk, f"/image {png}")
    ask(talk, "What is it?")
    ask(talk, "And now?")
    said = do(talk, "/stats")
    assert f"{talk.last.prompt} tokens, 36 of them of images, {talk.last.from_cache} from the cache" in said
    assert "session, 2 answers" in said
    assert talk.last.from_cache > 36
    assert talk.figures.answers == 2
    assert talk.figures.of_images == 72
    assert talk.figures.answered <= 12


def test_save_and_load(talk: Conversation, model: Model, png: Path, tmp_path: Path) -> None:
    file = tmp_path / "a talk.json"
    for line in ("/system Be brief.", "/set temperature 0.5", "/set seed 1", f"/image {png}"):
        do(talk, line)
    ask(talk, "What is it?")
    assert do(talk, f"/save '{file}'").endswith("1 question")
    with pytest.raises(UsageError, match="/save! overwrites it"):
        do(talk, f"/save {file}")
    other = Conversation(model.chat(max_new_tokens=2))
    ask(other, "Hi")
    assert "in place of 1" in do(other, f"/load {file}")
    assert other.chat.messages == talk.chat.messages
    assert other.chat.options == talk.chat.options
    assert do(other, "/images") == "question 1: red.png (36 tokens)"
    assert ask(other, "And now?") == ask(talk, "And now?")
    do(other, f"/save! {file}")
    assert len(json.loads(file.read_text())["messages"]) == 5
    assert [path.name for path in tmp_path.glob(".*")] == []
    messages = [
        {"role": "user", "content": [{"type": "image", "path": str(png)}, {"type": "text", "text": "?"}]}
    ]
    file.write_text(json.dumps([*messages, {"role": "assistant", "content": "A cat."}]))
    do(other, f"/load {file}")
    assert [message["role"] for message in other.chat.messages] == ["user", "assistant"]
    assert ask(other, "And now?")


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply|is not JSON"),
        (b'{"messages": NaN}', "NaN is no JSON"),
        (b"{}", "no saved conversation"),
        (b"7", "no saved conversation"),
        ({"format": "pumice chat", "version": 9, "messages": []}, "version 1"),
        ({"messages": [], "options": {"top_p": 2}}, "top_p is 2"),
        ({"messages": [], "options": {"mirostat": 2}}, "there is no option 'mirostat'"),
        ({"messages": [], "options": []}, "options that are no object"),
        ([USER], "question that has no answer"),
        ([ANSWER, USER], "expected 'user'"),
        ([USER, USER], "expected 'assistant'"),
        ([7, 7], "no dict of role and content"),
        ([{"role": "user"}, ANSWER], "no dict of role and content"),
        ([{"role": "user", "content": 7}, ANSWER], "another form"),
        ([{"role": "user", "content": []}, ANSWER], "another form"),
        ([{"role": "user", "content": [{"type": "image"}]}, ANSWER], "neither a url"),
        ([{"role": "user", "content": [{"type": "image", "url": "http://x/y"}]}, ANSWER], "not fetched"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "data:image/png;base64,!"}]}, ANSWER],
            "base64",
        ),
        ([{"role": "user", "content": "word " * 20_000}, ANSWER], "context"),
        ([USER, ANSWER] * 5_001, "10,000 at most"),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(
    content: object, told: str, talk: Conversation, tmp_path: Path
) -> None:
    file = tmp_path / "talk.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    ask(talk, "Hi")
    before = (talk.chat.messages, talk.chat.options)
    with pytest.raises(PumiceError, match=told):
        do(talk, f"/load {file}")
    assert (talk.chat.messages, talk.chat.options) == before


def test_places_where_nothing_can_be_saved_or_loaded(talk: Conversation, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for line in (
        f"/load {tmp_path}/pipe",
        f"/load {tmp_path}",
        "/load none.json",
        "/load",
        "/save",
        "/load a b",
    ):
        with pytest.raises(UsageError):
            do(talk, line)
    for line in (f"/save {tmp_path}/none/x.json", f"/save! {tmp_path}", "/save a\0b"):
        with pytest.raises(UsageError, match="cannot be saved"):
            do(talk, line)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists"):
        do(talk, f"/save {tmp_path}/link")


def test_undo_reset_and_leaving(talk: Conversation, png: Path) -> None:
    ask(talk, "One?")
    ask(talk, "Two?")
    do(talk, "/undo")
    assert talk.questions == 1
    do(talk, f"/image {png}")
    for name in ("reset", "clear"):
        do(talk, f"/{name}")
        assert (talk.waiting, talk.chat.messages) == ([], ())
    for name in ("quit", "bye", "exit"):
        talk.ended = False
        do(talk, f"/{name}")
        assert talk.ended


def test_every_command_is_documented() -> None:
    page = (DOCS / "chat.md").read_text("utf-8")
    for command in COMMANDS:
        for name in command.names:
            assert f"`/{name}" in page, name


def test_help_names_every_command_in_24_columns(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    typed(talk, "/help")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 24
    assert all(f"/{name}" in shown for name in BY_NAME)
    typed(talk, "/help set")
    assert capsys.readouterr().out.startswith("/set [NAME [VALUE]]\n")
    with pytest.raises(UsageError, match="no such command: /nothing"):
        do(talk, "/help nothing")


def test_the_loop_goes_on_after_failures(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Iterator[str | None] = iter(["/image none.png", "", "word " * 20_000, "Hi", "/nothing", None])

    class Lines:
        def read(self, prompt: str) -> str | None:
            return next(lines)

    monkeypatch.setattr(loop, "make_reader", lambda history: Lines())
    assert loop.run_chat(model.chat(max_new_tokens=3), [], history=False) == 0
    out, err = capsys.readouterr()
    assert err.count("pumice: error: ") == 3
    assert out.strip()


def test_an_image_of_the_command_line_is_looked_at_first(model: Model) -> None:
    with pytest.raises(ImageError):
        loop.run_chat(model.chat(), ["none.png"], history=False)


def test_a_chat_is_restored_or_left(model: Model) -> None:
    chat = model.chat(system="Be brief.")
    chat.send("Hi", max_new_tokens=3)
    before = chat.messages
    with pytest.raises(PromptError):
        chat.restore([USER], [])
    assert chat.messages == before
    chat.restore([USER, ANSWER], [])
    assert (chat.system, len(chat.messages)) == (None, 2)
    chat.restore([], [])
    assert chat.messages == ()


def test_the_plain_reader_is_for_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    from pumice.cli.conversation.history import History

    monkeypatch.setattr(readers, "_is_terminal", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(readers.make_reader(History(None)), readers.PlainReader)
