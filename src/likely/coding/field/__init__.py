"""A codec that is fitted to a single picture: `file` is what a caller needs."""
