"""Measuring: accuracy, and where the heat lies."""
