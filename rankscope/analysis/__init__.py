"""Analysis: one run measured, several compared, each number with its interval and its references."""
