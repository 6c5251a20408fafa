"""Comparisons of two runs on the same rows (or of two spectra): one file each, with its metadata beside it.

In every pair the first run is the reference (the base) and the second the tuned one.
"""
