"""Statistical inference on numbers: intervals, nulls, simultaneous bands, equivalence, extrapolation in n.

Tensors and callables only. The unit of resampling is the sample (a prompt, an image), never the row, and both runs of a
comparison always leave out the same samples.
"""
