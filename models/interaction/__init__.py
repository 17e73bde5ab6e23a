"""Interaction learning: the score needs both items."""
