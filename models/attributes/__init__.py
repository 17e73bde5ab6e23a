"""Attributes learning: matching through attributes."""
