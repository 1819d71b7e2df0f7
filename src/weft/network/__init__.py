"""Ring 2: the desired network state of one node's kernel. Values in, values out; the files follow a
packet's path, hop by hop."""
