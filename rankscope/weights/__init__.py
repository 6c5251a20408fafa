"""Numbers of weights: spectra of ΔW, intruder dimensions, power-law tails and learned prefixes. Tensors in, no model."""
