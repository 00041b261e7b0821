"""What changes a bundle's numbers and what does not: `python -m bench.equality` (docs/equality.md)."""
