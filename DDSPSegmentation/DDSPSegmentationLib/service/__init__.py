"""Services around the engine: the in-process runner, batch processing, command line."""
