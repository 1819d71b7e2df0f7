"""Ring 3: sessions between nodes. A worker holds one WebSocket over mutual TLS to a manager."""
