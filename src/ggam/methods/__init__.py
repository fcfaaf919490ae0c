"""The compared systems: the contract, and one file for each."""
