"""Texts: words, subwords, vectors."""
