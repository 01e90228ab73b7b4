"""Who wins at a budget, by how much and how surely; what fits, what it costs."""
