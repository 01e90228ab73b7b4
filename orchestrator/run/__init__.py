"""How the work is done: schedule, workers, cluster."""
