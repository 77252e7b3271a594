"""Numbers about candidates that need no model."""
