"""The paper's experiments: lists of runs, their statistics, and how they are drawn."""
