"""Training and measuring the small model for streaming shapes; see train.py."""
