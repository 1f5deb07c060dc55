"""A run is a folder: its configuration, files, records, locks and states. No torch."""
