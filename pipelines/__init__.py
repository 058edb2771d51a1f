"""Beam pipelines that keep a Qdrant index true to a Kafka topic of documents."""

__version__ = "0.1.0"
