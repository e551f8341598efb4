"""Puzzles from outside: readers, validation, splits, the Arrow store and the sampler. No torch."""
