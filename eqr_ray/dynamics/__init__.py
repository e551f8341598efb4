"""Iterating any map: solving for a fixed point, residuals, keyed noise, choosing among restarts.

Why here: one place per mathematical object. Nothing in this package knows a network, a puzzle or a device pool; a step
is a function that is handed in.
"""
