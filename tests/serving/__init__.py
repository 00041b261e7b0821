"""`make serve-check`: what the server promises, tried at length. docs/benchmarks/serving-promises.md has the figures.

Enters: a bundle, and how much of each is tried. Leaves: a table of figures beside what was promised; exit code 1
where one is broken. The suite has each of them once, without times: tests/runtime/serve.
"""
