"""What `vectors/generate.py` makes the vectors from: the world that they play in, and a module for each family."""
