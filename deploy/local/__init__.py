"""Plumbline and its servers on one machine, without Docker."""
