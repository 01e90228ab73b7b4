"""Rows of results to scaling curves: metrics, points of one protocol, interpolation."""
