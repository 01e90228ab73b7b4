"""Rows in, answers and figures out: from stored results to bit-optimal precision and a report."""
