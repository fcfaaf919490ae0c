"""From a trained model to its use."""
