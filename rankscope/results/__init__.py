"""Results: what each analysis returns, as records and tables."""
