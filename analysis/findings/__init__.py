"""What results say over all budgets and families, and the words for it."""
