"""The commands of `python -m vp`, one file each."""
