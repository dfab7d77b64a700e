"""The version, where the package, its agent string and its build read it."""

__version__ = "0.1.0"
