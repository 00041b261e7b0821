"""The names of the precisions that a bundle can have. Cheap to import: the command line needs them for its help."""

from typing import Literal, get_args

PrecisionName = Literal["fp32", "int4"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
