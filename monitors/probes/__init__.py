"""Probes: one file each, behind the small interface of `base`."""
