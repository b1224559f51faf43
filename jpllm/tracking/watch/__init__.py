"""A run seen from outside while it goes on: its status, and a screen that shows it."""
