"""The domain: contract, events, points, versions, search. No Beam, no Kafka."""
