"""Claims of papers tested: statistic, verdict, evidence and tables, made once."""
