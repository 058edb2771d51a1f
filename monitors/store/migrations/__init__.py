"""How the store's schema came to be; `monitors.store.migrate` runs it."""
