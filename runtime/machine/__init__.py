"""What this computer has: processor, control groups, memory, mapped pages.

Enters: nothing. Leaves: numbers, as the system tells them. Doors: `cpu`, `memory`, `pages`.
"""
