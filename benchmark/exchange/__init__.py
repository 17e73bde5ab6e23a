"""Runs that travel: to and from a folder or a repository of the Hugging Face Hub."""
