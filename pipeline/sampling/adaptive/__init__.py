"""Adaptive N: draw candidates in rounds, and more of them only where they are worth their tokens.

``rewards`` and ``votes`` say what further candidates are expected to gain, ``decide`` deals the tokens of one round
out. None of these imports Ray or reads a text.
"""
