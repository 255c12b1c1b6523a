"""Runs: their records, the store that keeps them, and the service through which pages and commands act on them."""
