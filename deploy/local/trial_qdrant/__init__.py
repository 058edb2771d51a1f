"""A Qdrant to try Plumbline with, where no server is installed: not for production.

    python -m deploy.local.trial_qdrant --path plumbline-up/qdrant

Several processes share it over REST, as they share a real server; below it is qdrant-client's own
local engine in one process. It searches exactly and slowly, holds everything in memory, is no proof
of gRPC, replication or a full disk, and answers on loopback alone. Put a Qdrant server's address in
`qdrant.url` as soon as it matters.

The tests use it too, with faults on request (`tests/support/qdrant_server.py`).
"""
