"""Retrieval methods, one folder per family and one file per method."""
