"""Changes of weights: spectra of ΔW, intruder dimensions and learned prefixes. Tensors in, no model."""
