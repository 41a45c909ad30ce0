"""A model at another input size: shapes re-derived, constants that hold spatial extents following."""
