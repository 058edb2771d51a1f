"""The ingest job on a Flink cluster: submission, status, stop and resume, and its worker pools."""
