"""How many tasks, of which version, meant to run or to stop."""
