"""The jobs: each is a list of passes. ``jobs/`` and the command line call them."""
