"""The Python API, whose names the package itself exports (docs/api.md)."""
