"""The Python interface, as ``cmr_bench`` offers it by name; what is not listed here is private.

Nothing is imported before it is used: torch is loaded by the first call that needs it.
"""
