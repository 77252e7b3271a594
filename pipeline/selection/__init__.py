"""Selectors, one file each, found by the method's name."""
