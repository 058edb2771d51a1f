"""Where records come from and where plans go: Kafka and Qdrant."""
