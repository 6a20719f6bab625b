"""The ground of a run: errors, folders, devices, seeds, provenance, locks, downloads, files that verify themselves."""
