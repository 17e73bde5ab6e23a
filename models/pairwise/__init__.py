"""Pairwise learning: one vector per item, the loss does the work."""
