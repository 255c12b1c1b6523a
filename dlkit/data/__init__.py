"""Images on disk: fetched, unpacked, found and read. Nothing here imports torch."""
