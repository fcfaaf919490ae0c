"""What is kept on disk: run directories and model folders."""
