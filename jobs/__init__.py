"""Thin entry points for the jobs that work on a run: ``python -m jobs.JOB CONFIG key=value``; see ``pipeline.cli``.

Always with ``-m``: started as files, their folder would lead the import path and ``select.py`` would hide Python's own.
"""
