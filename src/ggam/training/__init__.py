"""Training: the recipe, the Lightning module, and a run directory from start to end."""
