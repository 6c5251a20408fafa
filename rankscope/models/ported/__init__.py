"""Architectures that transformers does not have: OFA and VinVL, written from their papers and held to their outputs."""
