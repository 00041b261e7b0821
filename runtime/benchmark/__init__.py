"""How quick a bundle is on this machine, and what takes the time: `pumice bench`. docs/bench.md has how to read it.

Enters: a bundle, an image. Leaves: seconds, tokens a second, memory; and time by operator and layer. Doors:
`measurement`, `profiler`, `speed`.

    workload ──▶ measurement ──▶ report      seconds, tokens a second, memory
       └───────▶ profiler ──▶ profile ──▶ report      time by operator and layer, of ONNX Runtime's own profile
"""
