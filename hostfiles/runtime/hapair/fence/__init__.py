"""Fence stores: one contract (`base`), one backend a file."""
