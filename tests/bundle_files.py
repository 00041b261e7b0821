"""Where a bundle's graphs and their weights lie, as its manifest says.

Enters: a bundle's folder, a graph's name. Leaves: paths.
"""

from pathlib import Path

from pumice.manifest import load_manifest


def graph_file(bundle: Path, name: str) -> Path:
    """The graph's file."""
    return bundle / load_manifest(bundle).graphs.named[name].file


def data_file(bundle: Path, name: str) -> Path:
    """The file of the graph's own weights, which it is the last to name."""
    return bundle / load_manifest(bundle).graphs.named[name].external_data[-1]
