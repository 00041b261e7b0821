"""A LLaVA checkpoint as OpenVINO's graphs, as `optimum-cli export openvino` writes them.

`int8`: weights of all parts in 8 bits, asymmetric, a scale an output column. `int4`: the language model's in 4 bits,
symmetric, groups of 128 inputs, its first and last layer's and the vision tower's in 8 bits (nncf's defaults).
"""

from __future__ import annotations

from pathlib import Path

PRECISIONS = ("int4", "int8")


def export(checkpoint: Path, out: Path, precision: str) -> None:
    """Write graphs, compressed, with config and processor files."""
    from optimum.intel.openvino import OVModelForVisualCausalLM, OVWeightQuantizationConfig

    bits = 4 if precision == "int4" else 8
    options = {"bits": bits, "sym": True, "group_size": 128, "ratio": 1.0} if bits == 4 else {"bits": bits}
    model = OVModelForVisualCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=OVWeightQuantizationConfig(**options)
    )
    model.save_pretrained(out)
