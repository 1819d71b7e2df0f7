"""From the store's state to what one node is to run, and the difference between two such assignments."""
