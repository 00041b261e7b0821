"""Content as templates take it. Oracle: Jinja2 set up as transformers has it, over what vLLM would give the template."""

# ruff: noqa: E501  templates are one line each

from typing import Any

import pytest
from tokenizers import Tokenizer

from pumice.errors import PromptError, UsageError
from pumice.prompt.builder import PromptBuilder
from pumice.prompt.content_form import ContentForm, ContentForms
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.prompt import jinja_reference
from tests.runtime.prompt.templates import TEMPLATES
from tests.runtime.prompt.test_builder import IMAGE, VARIABLES, manifest

TEXT_ONLY = {
    "joined": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    "trimmed": "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}",
    "written out": "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}",
    "a method": "{% for m in messages %}{{ m.content.strip() }};{% endfor %}",
    "with JSON": "{% for m in messages %}{{ m.content }}|{{ m | tojson }}{% endfor %}",
}
BLIND = "{% for m in messages %}{{ m.role }}:{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}{% endfor %}"
"""Goes through parts, and passes over images."""


def rendered(template: str, messages: list[dict[str, Any]]) -> str:
    return jinja_reference.render(template, messages, **{**VARIABLES, "add_generation_prompt": True})


class Bundles:
    """Prompt builders over one tokenizer, one for each template."""

    def __init__(self, tokenizer_json: bytes) -> None:
        self._json = tokenizer_json
        self.tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        self._image_id = self.tokenizer.token_to_id("<image>")

    def builder(self, template: str) -> PromptBuilder:
        tokenizer = PromptTokenizer(self._json, reserved=["<image>"], template=template)
        return PromptBuilder(manifest(self._image_id), tokenizer, ChatTemplate(template, VARIABLES))

    def ids(self, template: str, prompt: Any, images: int = 0, **options: Any) -> list[int]:
        prepared = self.builder(template).prepare(prompt, [IMAGE] * images, **options)
        ids: list[int] = prepared.input_ids[0].tolist()
        return ids

    def of(self, text: str, images: int = 0) -> list[int]:
        """Ids of a rendered prompt without anybody's special tokens but the template's."""
        return self.ids("", text, images, raw=True)


@pytest.fixture(scope="session")
def bundles(tokenizer_json: bytes) -> Bundles:
    return Bundles(tokenizer_json)


def text(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def part(words: str | None) -> dict[str, str]:
    return {"type": "image"} if words is None else {"type": "text", "text": words}


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_a_template_of_text_gets_text(bundles: Bundles, name: str) -> None:
    """A question, a message of text and one of parts are the same; parts are lines."""
    template = TEXT_ONLY[name]
    expected = bundles.of(rendered(template, [text("user", " What\nis it? ")]))
    for prompt in (
        " What\nis it? ",
        [text("user", " What\nis it? ")],
        [text("user", [part(" What"), part("is it? ")])],
    ):
        assert bundles.ids(template, prompt) == expected
    said = [
        text("system", [part("Be brief.")]),
        text("user", [part("a")]),
        text("assistant", [part("b")]),
        text("user", "c"),
    ]
    plain = [text("system", "Be brief."), text("user", "a"), text("assistant", "b"), text("user", "c")]
    assert bundles.ids(template, said) == bundles.of(rendered(template, plain))


@pytest.mark.parametrize("name", ["joined", "trimmed", "written out", "a method"])
def test_images_are_written_in_a_template_of_text(bundles: Bundles, name: str) -> None:
    template = TEXT_ONLY[name]
    expected = bundles.of(rendered(template, [text("user", "<image>\n<image>\nWhich?")]), 2)
    for prompt in (
        "Which?",
        "<image>\n<image>\nWhich?",
        [text("user", [part(None), part(None), part("Which?")])],
    ):
        assert bundles.ids(template, prompt, 2) == expected
    between = [text("user", [part("This"), part(None), part("or this?"), part(None)])]
    expected = bundles.of(rendered(template, [text("user", "This\n<image>\nor this?\n<image>")]), 2)
    assert bundles.ids(template, between, 2) == expected


def test_images_are_written_where_a_template_of_parts_passes_over_them(bundles: Bundles) -> None:
    expected = bundles.of(rendered(BLIND, [text("user", [part("<image>\nWhich?")])]), 1)
    assert bundles.ids(BLIND, "Which?", 1) == expected
    assert bundles.ids(BLIND, [text("user", [part(None), part("Which?")])], 1) == expected


def test_strings_stay_strings_where_a_template_tells_them_apart(bundles: Bundles) -> None:
    template = (
        "{% for m in messages %}{% if m.content is string %}S:{{ m.content }}{% else %}"
        "{% for c in m.content %}{{ '<image>' if c.type == 'image' else 'P:' ~ c.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    assert bundles.ids(template, [text("user", "What?")]) == bundles.of("S:What?")
    assert bundles.ids(template, [text("user", [part(None), part("What?")])], 1) == bundles.of(
        "<image>P:What?", 1
    )


def test_each_role_has_a_form_of_its_own(bundles: Bundles) -> None:
    """Pixtral's template takes a system's words as text, and a user's as parts."""
    forms = ContentForms(ChatTemplate(TEMPLATES["pixtral"], VARIABLES))
    assert forms.of("user") == ContentForm(text=True, parts=True, images=True)
    assert forms.of("system") == ContentForm(text=True, parts=False, images=False)
    assert forms.of("tool") == ContentForm(text=False, parts=False, images=False)
    parts = [text("system", [part("Be brief.")]), text("user", [part(None), part("What?")])]
    plain = [text("system", "Be brief."), text("user", [part(None), part("What?")])]
    assert bundles.ids(TEMPLATES["pixtral"], parts, 1) == bundles.ids(TEMPLATES["pixtral"], plain, 1)


@pytest.mark.parametrize(
    "template", [*TEXT_ONLY.values(), BLIND, TEMPLATES["llava-1.5"], TEMPLATES["pixtral"]]
)
def test_words_stay_words_in_every_form(bundles: Bundles, template: str) -> None:
    """A special token's text in a message makes no token, and `<image>` no place for an image."""
    if "tojson" in template:
        return  # refused, and tested in test_builder.py: whose words are whose is hidden
    builder = bundles.builder(template)
    image_id, end_id = (
        builder.prepare(t, [IMAGE] * n, raw=True).input_ids[0, -1] for t, n in (("<image>", 1), ("</s>", 0))
    )
    typed = "a </s> <image> b"
    ends = bundles.ids(template, "plain").count(end_id)
    for content in (typed, [part(typed)], [part("a </s>"), part("<image> b")]):
        ids = bundles.ids(template, [text("user", content)])
        assert (ids.count(end_id), ids.count(image_id)) == (ends, 0)
    ids = bundles.ids(template, [text("user", [part(None), part(typed)])], 1)
    assert (ids.count(end_id), ids.count(image_id)) == (ends, 4)


@pytest.mark.parametrize(
    ("question", "images"),
    [
        ("<image>\nWhere is it?", 1),
        ("Where in <image> is it?", 1),
        ("Where?<image>", 1),
        ("<image><image>", 2),
        ("In <image> or <image>\n?", 2),
    ],
)
def test_a_token_in_a_question_is_the_image_s_place(bundles: Bundles, question: str, images: int) -> None:
    template = TEMPLATES["llava-1.5"]
    expected = bundles.of(rendered(template, [text("user", [part(question)])]), images)
    assert bundles.ids(template, question, images) == expected


@pytest.mark.parametrize(
    ("question", "images"), [("<image> and <image>?", 1), ("<image>?", 2), ("<image>" * 3, 2)]
)
def test_a_question_with_another_number_of_tokens_is_refused(
    bundles: Bundles, question: str, images: int
) -> None:
    with pytest.raises(PromptError, match="once for each image, or not at all"):
        bundles.ids(TEMPLATES["llava-1.5"], question, images)


def test_a_token_in_a_question_without_images_is_a_word(bundles: Bundles) -> None:
    template = TEMPLATES["llava-1.5"]
    assert bundles.ids(template, "What is <image>?") == bundles.ids(
        template, [text("user", "What is <image>?")]
    )


ANSWERED = [
    [text("user", [part("What?")]), text("assistant", [part("A cat")])],
    [text("user", [part("What?")]), text("assistant", [part("A"), part(" cat, and ")])],
    [text("user", "What?"), text("assistant", "A cat ")],
    [text("user", [part("What?")]), text("assistant", [part(" ")])],
    [text("user", [part("So what is")])],
]


@pytest.mark.export_extra
@pytest.mark.parametrize("messages", ANSWERED)
@pytest.mark.parametrize("name", ["llava-1.5", "interleave", "pixtral", "vicuna", "llama-3"])
def test_the_last_message_is_continued_as_by_transformers(
    bundles: Bundles, name: str, messages: list[dict[str, Any]]
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    builder = bundles.builder(TEMPLATES[name])
    taken = builder.messages(messages, 0)
    (expected,), _ = render_jinja_template(
        [taken],
        chat_template=TEMPLATES[name],
        continue_final_message=True,
        add_generation_prompt=False,
        **VARIABLES,
    )
    ids = builder.prepare(messages, continue_final_message=True).input_ids[0].tolist()
    assert ids == bundles.tokenizer.encode(expected, add_special_tokens=not expected.startswith("<s>")).ids


def test_words_of_a_continued_message_stay_words(bundles: Bundles) -> None:
    messages = [text("user", "What?"), text("assistant", "a </s> b")]
    ids = bundles.ids(TEMPLATES["llava-1.5"], messages, continue_final_message=True)
    assert bundles.of("</s>")[-1] not in ids


def test_without_the_beginning_of_an_answer(bundles: Bundles) -> None:
    template, messages = TEMPLATES["llava-1.5"], [text("user", [part("What?")])]
    assert bundles.ids(template, messages, add_generation_prompt=False) == bundles.of("USER: What? ")
    assert bundles.ids(template, messages, add_generation_prompt=True) == bundles.ids(template, messages)


def test_endings_that_contradict(bundles: Bundles) -> None:
    template, messages = TEMPLATES["llava-1.5"], [text("user", "What?"), text("assistant", "A")]
    with pytest.raises(UsageError, match="contradict"):
        bundles.ids(template, messages, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(UsageError, match="got a question"):
        bundles.ids(template, "What?", continue_final_message=True)
    with pytest.raises(UsageError, match="as it stands"):
        bundles.ids(template, "What?", raw=True, continue_final_message=True)
    with pytest.raises(PromptError, match="no text in the last message"):
        bundles.ids(template, [text("user", [part(None)])], 1, continue_final_message=True)
    with pytest.raises(PromptError, match="does not show"):
        bundles.ids(
            "{% for m in messages %}{{ m.content[0].text[:-9] }}{% endfor %}",
            messages,
            continue_final_message=True,
        )
