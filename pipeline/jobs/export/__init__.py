"""Training data from a run's selections: SFT, DPO, reward-model and KTO files in TRL's formats.

``config`` the keys; ``inventory`` what the run has; ``choose`` a row -> its pair, or why not; ``formats`` a pair -> the
file's columns; ``splits`` and ``duplicates``; ``write`` the shards, here or on a store; ``counts`` what became of
every row; ``card``, ``card_tables`` and ``markdown`` the README; ``build`` all of it; ``push``.
"""
