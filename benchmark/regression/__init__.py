"""Scores against those expected of them."""
