"""Looking at the running system: metrics. Changes nothing of what it looks at."""
