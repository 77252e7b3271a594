"""Thin entry points, one a job: ``python -m jobs.JOB CONFIG key=value``. They hold no logic; see ``pipeline.cli``.

Always with ``-m``: started as files, their folder would lead the import path and ``select.py`` would hide Python's own.
"""
