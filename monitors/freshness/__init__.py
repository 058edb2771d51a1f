"""How long events wait, and how long they waited: what the freshness probe measures."""
