"""Comparisons of two runs on the same rows, or of two spectra: one file per comparison or family, with its record.

In every pair the first run is the reference (the base) and the second the tuned one.
"""
