"""Rows in, answers and figures out: from stored results to bit-optimal precision and a report."""

import pandas as pd

# Tables here are small and selected from often: on Arrow's strings that takes half as long again.
pd.set_option("mode.string_storage", "python")
