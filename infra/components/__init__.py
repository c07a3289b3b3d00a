"""The parts of the stack, one component in each file, all of one shape."""
