"""What each command does, a file for a group: read the arguments, call the library, print the outcome."""
