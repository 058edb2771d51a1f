"""The demo: the real job on an embedded broker and an embedded store, with real documents.

`run_demo` plays it and checks what it claims.
"""

from pipelines.demo.run import run_demo

__all__ = ["run_demo"]
