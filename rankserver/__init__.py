"""A TCP server that ranks its clients first come, first served, and broadcasts their commands."""

from importlib.metadata import version

__version__ = version("rankserver")
