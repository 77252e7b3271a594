"""Offline labelling: what a selector chose among given answers, written back beside the user's own columns."""
