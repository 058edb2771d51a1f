"""Imported by the process that a pool forks its workers from: their encoders are slow."""

from tests.support.slow_encoder import slow_down

slow_down()
