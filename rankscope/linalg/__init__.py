"""Batched linear algebra on ``(*, n, d)`` tensors: sums of powers that merge, singular values, angles between subspaces.

Nothing here knows of models, files or measures. Everything accumulates and is solved in float64, whatever the
dtype of the features, so no product is ever left to TF32 or to a half-precision unit.
"""
