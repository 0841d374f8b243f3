"""The gateway's own ground, for attacks on its pipeline."""

from tests.gateway.conftest import make_stand

__all__ = ["make_stand"]
