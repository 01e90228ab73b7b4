"""How far values can be told apart: shared items, resampling, what picking the best does."""
