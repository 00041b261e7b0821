"""The interactive conversation of `pumice run`, without its terminal and with it.

Enters: a `Chat`, and what a person types. Leaves: answers, and what commands say. Doors: `state` (the conversation),
`commands` (what begins with a slash), `readers` (lines from a terminal), `view` (how answers are shown).
"""
