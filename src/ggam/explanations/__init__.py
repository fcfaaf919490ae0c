"""Where a model looked: heat maps of our models and of any other."""
