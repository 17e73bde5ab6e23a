"""The version of the suite, readable without importing anything else."""

__version__ = "0.1.0"
