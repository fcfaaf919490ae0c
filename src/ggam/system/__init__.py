"""What the machine gives: files, devices, time."""
