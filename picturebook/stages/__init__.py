"""Training of each model, one stage after the other."""
