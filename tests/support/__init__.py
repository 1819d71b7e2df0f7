"""What several suites need: parts put together, swarms by hand, virtual time."""
