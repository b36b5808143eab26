"""The configuration of a run: its schema (schema.py), and how files and overrides become one
validated config (load.py)."""
