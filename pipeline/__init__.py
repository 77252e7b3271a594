"""Lemonpress: sample many answers in any language, select (or fuse) one, and prove with win-rates that it paid off."""

__version__ = "0.1.0"
