"""Results as Markdown: the table of targets, the measures of all systems, and why measures are missing.

Enters: `Results`. Leaves: text, and a page whose part between a shape's and a kind's markers is that text.

    <!-- bench SHAPE KIND -->
    …
    <!-- end of bench SHAPE KIND -->

KIND is the instruction set of the machine: a run on another kind of machine has a section of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bench.results import Results
from bench.series import Series, best_limit, number, reasons, series
from bench.targets import Verdict, verdicts

ANSWERS = {
    "encode_s": "image encode, s",
    "prefill_s": "prefill, s",
    "ttft_s": "first token, s",
    "decode_100": "tokens/s at 100",
    "decode_2000": "tokens/s at 2,000",
    "second_turn_s": "second turn, s",
    "batch8": "tokens/s, 8 rows",
}
BURSTS = {
    **{f"throughput_{n}": f"tokens/s in all, {n} at once" for n in (1, 4, 8)},
    **{f"burst_ttft_p50_{n}": f"first token p50, {n} at once, s" for n in (4, 8)},
    **{f"burst_ttft_p95_{n}": f"first token p95, {n} at once, s" for n in (4, 8)},
}
STARTS = {
    "cold_load_s": "load, cold, s",
    "cold_first_token_s": "to first token, cold, s",
    "load_s": "load, warm, s",
    "first_token_s": "to first token, warm, s",
    "resident_mb": "resident, MB",
    "private_mb": "private, MB",
    "peak_mb": "peak, MB",
}
BUNDLES = {
    "export_s": "export, s",
    "export_load": "load average then",
    "export_peak_mb": "export's peak, MB",
    "bundle_mb": "on disk, MB",
}


def report(results: Results) -> str:
    """All of a shape's results."""
    parts = [_heading(results), _limits(results)]
    judged = verdicts(results)
    if judged:
        parts.append(_targets(judged))
    parts += [_measures(results, columns) for columns in (ANSWERS, BURSTS, STARTS, BUNDLES)]
    parts += [_missing(results), _versions(results)]
    return "\n\n".join(part for part in parts if part)


def _heading(results: Results) -> str:
    machine = results.machine
    flags = f" ({', '.join(machine.flags)})" if machine.flags else ""
    loads = [run.load for run in (*results.limits, *(run for s in results.systems for run in s.runs))]
    busy = f"; load average before a process {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return (
        f"{results.date}: `{results.command}`\n\n"
        f"Instruction set: {machine.instruction_set}. "
        f"{machine.cpu}{flags}, {machine.cores} cores, {machine.memory_gib:.0f} GiB, {machine.system}; "
        f"threads: {results.threads}, rounds: {results.rounds}{busy}. "
        f"{results.parameters / 1e9:.3g} billion parameters."
    )


def _limits(results: Results) -> str:
    read, int8, fp32 = (best_limit(results, n) for n in ("read_gb_s", "int8_gop_s", "fp32_gflop_s"))
    if read is None or int8 is None or fp32 is None:
        why = next((run.failure for run in results.limits if run.failure), "no round was run")
        return f"Limits of the machine: not measured ({why})."
    cost = results.token_cost
    return (
        f"Limits of the machine, measured in the same run: memory reads {read:.1f} GB/s, int8 products {int8:,.0f} "
        f"GOP/s, float32 products {fp32:,.0f} GFLOP/s. A token in 4 bits goes through {cost.weights / 1e6:,.0f} "
        f"million weights: at most {cost.tokens_per_second(read, 100):.1f} tokens/s at 100 tokens of context, "
        f"{cost.tokens_per_second(read, 2000):.1f} at 2,000."
    )


def _targets(judged: list[Verdict]) -> str:
    """A row for each target, a column for each of pumice's systems: the ratio, and whether that is enough."""
    systems = list(dict.fromkeys(verdict.system for verdict in judged))
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for verdict in judged:
        bound = f"{'≤' if verdict.ceiling else '≥'} {verdict.bound:g}"
        row = rows.setdefault((verdict.target, bound, verdict.against), dict.fromkeys(systems, ""))
        row[verdict.system] = f"{_cell(verdict.ratio)} {'yes' if verdict.met else '**no**'}"
    header = ("target", "bound", "against", *(f"`{name}`" for name in systems))
    return _table(header, [(*target, *cells.values()) for target, cells in rows.items()])


def _measures(results: Results, columns: dict[str, str]) -> str:
    rows = []
    for system in results.systems:
        found = {name: series(system, name) for name in columns}
        if any(found.values()):
            rows.append((f"`{system.system}`", *(_cell(values) for values in found.values())))
        words = {name: series(system, f"text_{name}") for name in columns}
        if any(words.values()):
            rows.append((f"`{system.system}`, words only", *(_cell(values) for values in words.values())))
    return _table(("system", *columns.values()), rows) if rows else ""


def _missing(results: Results) -> str:
    lines = [
        f"- `{system.system}`{'' if what == 'all' else f', {what}'}: {why}"
        for system in results.systems
        for what, why in reasons(system).items()
    ]
    return "\n".join(["Not measured, and why:", "", *lines]) if lines else ""


def _versions(results: Results) -> str:
    lines = []
    for system in results.systems:
        lines_of = [run.line for run in system.runs if run.line is not None]
        told = (lines_of[0] if lines_of else system.prepared or {}).get("versions") or {}
        line = ", ".join(f"{name} {version}" for name, version in told.items())
        if line and line not in lines:
            lines.append(line)
    return "Versions: " + "; ".join(lines) + "." if lines else ""


def _cell(values: Series | None) -> str:
    """Median, and in brackets the spread where there are several values."""
    if values is None:
        return "–"
    if len(values.values) == 1:
        return number(values.median)
    return f"{number(values.median)} ({number(values.low)}–{number(values.high)})"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(page: Path, shape: str, kind: str, text: str) -> None:
    """Put text between a shape's and a kind's markers; where there are none yet, last among the shape's sections."""
    begin, end = f"<!-- bench {shape} {kind} -->", f"<!-- end of bench {shape} {kind} -->"
    part = f"{begin}\n\n{text}\n\n{end}"
    old = page.read_text() if page.exists() else ""
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if found.search(old):
        page.write_text(found.sub(lambda _: part, old))
        return
    heading = f"## {shape}\n"
    if f"\n{heading}" not in old:
        old = f"{old.rstrip()}\n\n{heading}"
    before, heading, behind = old.partition(f"\n{heading}")
    own, following, others = behind.partition("\n## ")
    own = f"\n{own.strip()}\n" if own.strip() else ""
    section = f"{before}{heading}{own}\n### {shape}, {kind}\n\n{part}\n"
    page.write_text(f"{section}{following}{others}")
