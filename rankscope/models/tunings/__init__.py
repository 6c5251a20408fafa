"""Adapters, prefixes and prompts: read, attached to a base, and taken apart again."""
