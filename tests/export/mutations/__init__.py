"""300 ways to spoil a checkpoint, over the families. Leaves: `MUTATIONS`, the same ones in every run."""

from tests.export.mutations.catalogue import MUTATIONS, catalogue
from tests.export.mutations.mutation import Mutation

__all__ = ["MUTATIONS", "Mutation", "catalogue"]
