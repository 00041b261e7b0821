"""How weights are stored: a TOML file, applied to a model.

Enters: a recipe's name or file, a config. Leaves: the storage of each matrix. Doors: `recipe`, `storage`.
"""
