"""Curves and answers drawn."""
