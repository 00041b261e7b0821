"""How quick a bundle is on this machine, and what takes the time: `pumice bench`. docs/bench.md has how to read it.

workload.py ──▶ measurement.py ──▶ report.py      seconds, tokens a second, memory
    │           whole steps
    └─────────▶ recording.py ──▶ profile.py ──▶ report.py      time by operator and layer
                ONNX Runtime's    weights.py
                profiler          bytes of a node's weights
"""
