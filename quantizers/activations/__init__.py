"""What linear maps read, rounded to integers: formats, which site gets which, exact products."""
