"""Checks of a finished run: is it consistent, and does its provenance give the same answers again?"""
