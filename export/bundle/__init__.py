"""A bundle's folder, written: it appears whole or not at all.

Enters: files. Leaves: a folder in its place. Door: `writing`.
"""
