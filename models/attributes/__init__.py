"""Attribute learning: matching through attributes."""
