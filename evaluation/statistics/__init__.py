"""What weights and activations of a model look like, in numbers."""
