"""The version of this package, for whoever must not import the package's root, which imports them."""

__version__ = "0.1.0"
