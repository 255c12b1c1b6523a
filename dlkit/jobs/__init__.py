"""The processes that do the work: one supervisor per data folder, and one worker per run."""
