"""From a source to the ``prompts/`` table. Importing the room loads nothing heavy: :mod:`.reading` does."""
