"""Blue-green re-embedding. Nothing here yet: versions are made by `plumbline index create`."""
