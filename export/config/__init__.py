"""config.json becomes a checked `LlavaConfig`.

Enters: a `Checkpoint`. Leaves: a config, or an error that names the key. Doors: `llava`, `tying`.
"""
