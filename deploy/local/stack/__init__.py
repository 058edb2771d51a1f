"""Plumbline with everything it needs, on one machine and without Docker.

    make up       # Kafka, Qdrant, Alertmanager, the ingest job, the monitor, Prometheus
    make status
    make down     # stops what `make up` has started, and nothing else

All of it listens on loopback, and all that it leaves lies in one folder, `plumbline-up`.
"""
