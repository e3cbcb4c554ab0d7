"""Corrected cases and model versions on disk."""
