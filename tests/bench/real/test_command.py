from __future__ import annotations

from pathlib import Path

import pytest

from bench.real import __main__ as command
from bench.real.answers import Answer, Comparison
from bench.real.checkpoint import Checkpoints
from bench.real.measurement import Line, Plan, Results

PAGE = "# Accuracy\n\n<!-- real -->\nnothing yet\n<!-- /real -->\n"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Plan]:
    """What would have been measured; every line fails in its first variant if its label is `odd`."""
    found: list[Plan] = []

    def measured(plan: Plan) -> Results:
        found.append(plan)
        lines = [Line(label=row.label) for row in plan.rows]
        for line in lines:
            if line.label == "odd":
                line.failures["plain"] = "it is odd"
        return Results(plan=plan, lines=lines)

    page = tmp_path / "accuracy.md"
    page.write_text(PAGE)
    monkeypatch.setattr(command, "measure", measured)
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "ROOT", tmp_path / "real")
    return found


def test_everything_is_the_default(plans: list[Plan]) -> None:
    assert command.main([]) == 0
    (plan,) = plans
    assert plan.variants == ("plain", "dithered", "outliers")
    assert plan.peers == ("Q4_0", "Q4_1", "Q8_0")
    assert {"portable-fp32", "cpu-int8", "cpu-int4", "cpu-fast"} <= {row.label for row in plan.rows}
    assert command.PAGE.read_text() == PAGE


def test_a_table_is_written_with_its_command(plans: list[Plan]) -> None:
    assert (
        command.main(
            ["--recipes", "cpu-int8", "--peers", "--variants", "dithered", "--rounds", "0", "--write"]
        )
        == 0
    )
    assert (plans[0].peers, plans[0].variants, plans[0].rounds) == ((), ("dithered",), 0)
    page = command.PAGE.read_text()
    assert page.startswith("# Accuracy\n\n<!-- real -->\n| weights as |")
    assert "`python -m bench.real --recipes cpu-int8 --peers --variants dithered --rounds 0 --write`" in page


def test_what_failed_fails_the_command(plans: list[Plan], tmp_path: Path) -> None:
    recipe = tmp_path / "odd.toml"
    recipe.write_text('float_type = "fp32"\n')
    assert command.main(["table", "--recipes", str(recipe), "cpu-int8"]) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--recipes", "cpu-int3"], "recipe is 'cpu-int3', expected one of"),
        (["--variants", "plain,dotted"], "there is no variant dotted"),
        (["--limit", "0"], "--limit is 0, expected 1 or more"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    plans: list[Plan], given: list[str], told: str
) -> None:
    with pytest.raises(SystemExit, match=told):
        command.main(given)
    assert not plans


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 1)])
def test_parity_fails_where_an_answer_differs(monkeypatch: pytest.MonkeyPatch, same: bool, code: int) -> None:
    answer = Answer(question="Why?", prompt=(1,), tokens=(2, 3), text="So.")
    compared = Comparison(
        answer=answer, same_prompt=True, same_tokens=2 if same else 1, margin=None if same else 0.5
    )
    monkeypatch.setattr(command, "answer", lambda bundle, questions, most: [answer])
    found = Checkpoints(llama=Path("llama"), llava=Path("llava"))
    monkeypatch.setattr(command, "checkpoints", lambda variant: found)
    monkeypatch.setattr(command, "compare", lambda llama, answers: [compared])
    assert command.main(["parity", "some/bundle"]) == code
