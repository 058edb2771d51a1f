"""Plumbline's image, and what the containers of `deploy/compose.yaml` are given."""
