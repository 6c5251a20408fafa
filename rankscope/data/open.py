"""open_data: from what a person types to a probe set."""

from __future__ import annotations
