"""Kernels of our own, each with a plain twin."""
