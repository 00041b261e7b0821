"""Graph passes, one a file.

Enters: a traced graph. Leaves: the same graph, smaller, or with quantised operators.
"""
