"""The version of the distribution, and of the protocol that client and daemon speak."""

__version__ = "0.1.0"

PROTOCOL_VERSION = 2
"""Raised when an old client could no longer work with a new daemon, or the other way round."""
