"""Collecting: what a user names is opened, read batch by batch, and stored as a run."""
