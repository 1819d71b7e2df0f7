"""One packet's way through the state of kernels, planned or real: the rules are interpreted, hop by
hop."""
