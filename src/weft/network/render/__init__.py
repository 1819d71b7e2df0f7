"""Renders tables as nft's text, and the changes that lead from one table to another."""
