"""Examples to tensors: tokens and pixels, the role of every column, padded batches."""
