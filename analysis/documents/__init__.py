"""Answers, figures and claims as a report (HTML) and a study (Markdown)."""
