"""Write the built-in corpus of the demo: plain modern Japanese drawn from a grammar."""
