"""Approximate against exact search: what the ann probe measures with."""
