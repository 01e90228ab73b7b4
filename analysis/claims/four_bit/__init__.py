"""Dettmers & Zettlemoyer 2023, The case for 4-bit precision."""
