"""How the scales and the codes of a matrix are chosen."""
