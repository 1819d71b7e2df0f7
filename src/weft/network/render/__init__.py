"""From tables as values to nft's text, and to the changes that lead from one to another."""
