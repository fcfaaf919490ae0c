"""The mathematics of the paper: one function for each equation, nothing but torch."""
