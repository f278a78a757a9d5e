"""The extension: everything that runs inside a WebUI or beside one, and nothing of the bench."""

__version__ = "0.4.0"
