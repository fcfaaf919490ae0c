"""The generated birds: which species there are, how a bird is built, and how it is drawn."""
