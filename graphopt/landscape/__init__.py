"""Cost against channels: the stairs that make some widths cheap and their neighbours dear. Estimates only."""
