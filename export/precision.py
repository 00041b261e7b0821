"""The names of the precisions that a bundle can have. Cheap to import: the command line needs them for its help."""

from typing import Literal, get_args

PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "int4"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)

RECIPE_OF: dict[PrecisionName, str] = {
    "fp32": "portable-fp32",
    "fp16": "cuda-fp16",
    "bf16": "cuda-bf16",
    "int8": "cpu-int8",
    "int4": "cpu-int4",
}
"""The recipe that a precision without further words means."""
