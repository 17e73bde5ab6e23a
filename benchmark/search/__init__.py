"""Ranking a user's own photographs and sentences with a trained run."""
