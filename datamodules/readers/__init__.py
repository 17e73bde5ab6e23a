"""Readers of the field's file layouts."""
