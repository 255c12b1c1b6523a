"""Numbered steps from one form of the store to the next, applied by `dlkit.runs.store` when it opens an older one."""

#: the newest step; a store that carries it is opened without importing alembic
HEAD = "0002"
