"""Channel scales moved from what a norm puts out into the matrices that read it.

A method's file gives the scales; `norms` applies them. The function of the model stays as it was,
what the matrices read and what they hold gets easier to round.
"""
