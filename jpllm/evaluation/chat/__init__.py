"""Conversations with a trained model: what it sees of them, and the page that shows one in a browser."""
