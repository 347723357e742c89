"""The version of this package, for the run record, the command line and the build."""

__version__ = "0.1.0"
