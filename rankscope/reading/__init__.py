"""Collecting: a forward pass with hooks at the chosen sites, rows chosen by mask, written as they come."""
