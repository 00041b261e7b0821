"""Recipes on a real language model: `make real` (docs/accuracy.md)."""
