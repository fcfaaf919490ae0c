"""Predictions for any number of pictures, written as they are made."""
