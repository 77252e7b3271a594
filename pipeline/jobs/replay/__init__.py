"""Old candidates, new selectors: pools, utilities and games in one table, on which selectors are tried in seconds."""
