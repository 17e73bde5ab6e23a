"""Pairwise learning: one vector per item, trained on matching pairs."""
