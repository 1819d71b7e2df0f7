"""Ring 2: what one node's kernel should look like. Values in, values out; the files follow a
packet's path, hop by hop."""
