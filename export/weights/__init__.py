"""Rows of a checkpoint become a bundle's bytes.

Enters: a reader of rows, wrapped once for every transform (`heads`, `rotation`, `norms`, `balance`). Leaves:
parameters, quantised or cast, written a piece at a time. Doors: the wrappers, `parameters`, `stream`.
"""
