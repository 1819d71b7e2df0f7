"""What the API asks for: functions from the state to changes. The only validation, and the only
messages."""
