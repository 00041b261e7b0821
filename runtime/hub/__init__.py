"""Bundles on the Hugging Face hub: fetched into its cache, and pushed. Nothing of it is imported for a local bundle.

Enters: a folder, or `org/name` on the hub; a bundle to push. Leaves: a folder; a commit on the hub.
Doors: `location`, `push`.
"""
