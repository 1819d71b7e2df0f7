"""What every adapter needs of the operating system. It knows no adapter, and decides nothing."""
