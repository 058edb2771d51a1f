"""What tests share: real servers, a stand-in for Qdrant, and the care of processes.

Servers come from the cache that `deploy/local/install.py` fills; a test that needs one which is not
installed is skipped, and the message says how to install it.
"""
