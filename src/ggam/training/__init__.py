"""The recipe, the loop, its step, and a run from start to end."""
