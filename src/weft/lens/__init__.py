"""Looking at the running system: metrics and captured packets. Changes nothing of what it looks at."""
