"""Scoring: ranks, metrics and the protocols that say what is scored against what."""
