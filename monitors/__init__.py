"""The monitor: watches a live index and tells harmless change from damage."""
