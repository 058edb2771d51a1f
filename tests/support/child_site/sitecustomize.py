"""Python imports this when it starts, in a process with this folder on its PYTHONPATH."""

from tests.support.child import prepare

prepare()
