"""The systems that are measured: pumice's bundles and their peers.

Enters: names of systems, as on the command line. Leaves: `System`, each with its file in `bench/peers/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, kw_only=True)
class System:
    """One column of the table: a peer's file, and the precision that it is asked for.

    `gb_per_billion` is the memory, in GB for each billion of weights, that preparing or running takes at the least: a
    shape that cannot fit is not tried. `optimized`: pumice's copy of a bundle for this machine is used. `export`: more
    arguments of `pumice export`. `most_rounds`: a slow system takes part in no more. `bursts`: requests at once are
    measured, where the peer can serve them; not of what computes as another system does, or is never the quickest.
    """

    name: str
    peer: str
    precision: str
    gb_per_billion: float = 1.0
    optimized: bool = False
    export: tuple[str, ...] = ()
    most_rounds: int | None = None
    bursts: bool = True

    @property
    def file(self) -> Path:
        """The peer's program."""
        return PEERS / f"{self.peer}.py"

    @property
    def ours(self) -> bool:
        """Whether it is pumice."""
        return self.peer == "peer_pumice"


def _pumice(recipe: str, gb: float, suffix: str = "", export: tuple[str, ...] = ()) -> tuple[System, System]:
    plain = System(
        name=f"pumice-{recipe}{suffix}",
        peer="peer_pumice",
        precision=recipe,
        gb_per_billion=gb,
        export=export,
    )
    return plain, replace(plain, name=f"{plain.name}+optimized", optimized=True, bursts=False)


def _peer(kind: str, precision: str, gb: float, most_rounds: int | None = None) -> System:
    return System(
        name=f"{kind.replace('_', '-')}-{precision}",
        peer=f"peer_{kind}",
        precision=precision,
        gb_per_billion=gb,
        most_rounds=most_rounds,
    )


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        *_pumice("cpu-int4", 1.0),
        *_pumice("cpu-int4", 1.0, "+kv8", ("--kv-cache", "int8")),
        *_pumice("cpu-fast", 2.0),
        *_pumice("cpu-int8", 1.5),
        *_pumice("cpu-w8a8", 1.5),
        *_pumice("portable-fp32", 4.5),
        _peer("transformers", "fp32", 4.2, most_rounds=1),
        _peer("transformers", "bf16", 2.2),
        _peer("genai", "int4", 2.5),
        _peer("openvino", "int4", 2.5),
        _peer("openvino", "int8", 2.5),
        _peer("openvino_genai", "int4", 2.5),
        _peer("openvino_genai", "int8", 2.5),
        _peer("llama_cpp", "q4_0", 4.5),
        replace(_peer("llama_cpp", "q8_0", 4.5), bursts=False),
    )
}
"""All systems by name, in the order of tables and legends."""

LEADING = (
    "pumice-cpu-int4",
    "pumice-cpu-int4+optimized",
    "pumice-cpu-int4+kv8",
    "pumice-cpu-int4+kv8+optimized",
    "pumice-cpu-fast",
    "pumice-cpu-fast+optimized",
    "pumice-cpu-int8",
    "pumice-cpu-w8a8",
    *(name for name, system in SYSTEMS.items() if not system.ours),
)
"""Those that `make bench` measures."""

QUICK = ("pumice-cpu-int4", "pumice-cpu-int8", "transformers-fp32")
"""Those that `make bench-quick` measures: they need no environment but the project's own."""


def chosen(names: str) -> list[System]:
    """Systems of a list separated by commas; `leading`, `quick` and `all` stand for lists.

    Raises:
        SystemExit: a name that there is not, with those that there are.
    """
    groups = {"leading": LEADING, "quick": QUICK, "all": tuple(SYSTEMS)}
    wanted = [each for name in names.split(",") for each in groups.get(name, (name,))]
    unknown = [name for name in wanted if name not in SYSTEMS]
    if unknown:
        known = ", ".join([*groups, *SYSTEMS])
        raise SystemExit(f"there is no system {', '.join(unknown)}: expected names among {known}")
    return [SYSTEMS[name] for name in dict.fromkeys(wanted)]
