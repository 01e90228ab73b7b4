"""Zero-shot tasks: where they are defined, what they ask, how their answers are judged."""
