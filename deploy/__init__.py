"""How Plumbline is run in production, and what is generated for it."""
