"""A run is a folder: settings, records, locks, states. No torch."""
