"""Adaptive N: draw candidates in rounds, and more of them only where they are worth their tokens.

``settings`` is the config, ``rewards`` and ``votes`` say what further candidates are expected to gain, ``budget`` deals
the tokens out, ``decide`` makes one round's decision of them. None of these imports Ray or reads a text.
"""
