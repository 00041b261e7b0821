"""A bundle's folder, found whole, and what it needs.

Enters: a path. Leaves: a checked `Bundle`, its copy for this machine, a memory plan. Doors: `folder`, `optimized`,
`plan`.
"""
