"""Results as images: PNG files by matplotlib.

    SHAPE-first-token.png   seconds to the first token of image + question, of it encoding and prefill
    SHAPE-decode.png        tokens a second at 100 and 2,000 tokens of context, and what memory allows
    SHAPE-memory.png        resident memory with image + 512 tokens

A system has one colour in all of them: pumice's are shades of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.results import Results
from bench.series import all_series, best_limit, is_ours, number
from bench.systems import SYSTEMS

_FAMILIES = {
    "pumice": ("#0b4f6c", "#1b7a9e", "#3ba3c9", "#7cc6de"),
    "transformers": ("#b5651d", "#dd9a5b"),
    "genai": ("#6a4c93",),
    "openvino": ("#3f7d3a", "#83b57e"),
    "llama": ("#a4303f", "#d77a86"),
}
_OTHER = "#777777"
_LIMIT = "#222222"


def colour(system: str) -> str:
    """A system's colour: its place among those of its family in the table of systems.

    A bundle and its optimised copy share one.
    """
    plain = system.removesuffix("+optimized")
    family = plain.partition("-")[0]
    kin = [name for name in SYSTEMS if name.partition("-")[0] == family and not name.endswith("+optimized")]
    shades = _FAMILIES.get(family, (_OTHER,))
    return shades[kin.index(plain) % len(shades)] if plain in kin else shades[0]


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the images that the results have values for; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, image in (("first-token", _first_token), ("decode", _decode), ("memory", _memory)):
        figure = image(results)
        if figure is not None:
            path = folder / f"{results.shape}-{name}.png"
            figure.savefig(path, dpi=130, metadata={"Software": None})
            drawn.append(path)
    matplotlib.pyplot.close("all")
    return drawn


def _first_token(results: Results) -> Any:
    """Stacked bars: encoding, prefill, and what neither is."""
    whole, encode, prefill = (all_series(results, name) for name in ("ttft_s", "encode_s", "prefill_s"))
    names = [name for name in whole if name in encode and name in prefill]
    if not names:
        return None
    figure, axes = _canvas(len(names))
    for place, name in enumerate(names):
        seconds, vision = whole[name].median, encode[name].median
        vision = min(vision, seconds)
        text = max(0.0, min(prefill[name].median, seconds - vision))
        shade = colour(name)
        axes.barh(place, vision, color=shade, hatch=_hatch(name), edgecolor="white")
        axes.barh(place, text, left=vision, color=shade, alpha=0.6, hatch=_hatch(name), edgecolor="white")
        axes.barh(place, seconds - vision - text, left=vision + text, color=shade, alpha=0.25)
        _spread(axes, place, whole[name].low, whole[name].high)
        _label(axes, place, max(seconds, whole[name].high), f"{seconds:.2f} s")
    _finish(
        axes, names, "seconds to the first token: image encode (full), prefill (lighter), rest (lightest)"
    )
    axes.set_title(f"Time to first token, image + question: {results.shape}")
    return figure


def _decode(results: Results) -> Any:
    """Two bars for each system, and two lines for the limit."""
    near, far = all_series(results, "decode_100"), all_series(results, "decode_2000")
    names = [name for name in near if name in far]
    if not names:
        return None
    figure, axes = _canvas(len(names), height=0.62)
    for place, name in enumerate(names):
        for values, shift, alpha in ((near[name], -0.2, 1.0), (far[name], 0.2, 0.55)):
            where = place + shift
            bar = {"color": colour(name), "alpha": alpha, "hatch": _hatch(name), "edgecolor": "white"}
            axes.barh(where, values.median, height=0.38, **bar)
            _spread(axes, where, values.low, values.high)
            _label(axes, where, values.high, f"{values.median:.1f}")
    read = best_limit(results, "read_gb_s")
    if read is not None:
        for context, style in ((100, "-"), (2000, "--")):
            limit = results.token_cost.tokens_per_second(read, context)
            label = f"bandwidth limit, 4 bits, {context:,} tokens: {number(limit)}"
            axes.axvline(limit, color=_LIMIT, linestyle=style, linewidth=1.2, label=label)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _finish(
        axes, names, "tokens per second, one sequence: at 100 tokens of context (full) and 2,000 (lighter)"
    )
    axes.set_title(f"Decoding: {results.shape}")
    return figure


def _memory(results: Results) -> Any:
    """A bar for each system."""
    resident, sees = all_series(results, "resident_mb"), all_series(results, "ttft_s")
    if not resident:
        return None
    figure, axes = _canvas(len(resident))
    for place, (name, values) in enumerate(resident.items()):
        axes.barh(place, values.median, color=colour(name), hatch=_hatch(name), edgecolor="white")
        _spread(axes, place, values.low, values.high)
        _label(axes, place, values.high, f"{values.median:,.0f} MB")
    names = [name if name in sees else f"{name} (text only)" for name in resident]
    _finish(axes, names, "resident memory with image + 512 tokens, MB")
    axes.set_title(f"Memory: {results.shape}")
    return figure


def _canvas(bars: int, height: float = 0.42) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(9, 1.7 + height * bars), layout="constrained")


def _hatch(name: str) -> str:
    """Optimised copies have the colour of their bundle, and stripes."""
    return "///" if name.endswith("+optimized") else ""


def _spread(axes: Any, place: float, low: float, high: float) -> None:
    axes.plot([low, high], [place, place], color=_LIMIT, linewidth=1)


def _label(axes: Any, place: float, right: float, words: str) -> None:
    """A value behind its bar, readable over a limit's line."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    place_of = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(words, (right, place), fontsize=8, bbox=behind, **place_of)


def _finish(axes: Any, names: list[str], words: str) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if is_ours(name) else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.set_xlabel(words, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
