"""What a run stands on: errors, folders, devices, seeds, provenance, locks, downloads, files that verify themselves."""
