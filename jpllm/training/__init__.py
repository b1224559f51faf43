"""Training on Hugging Face Trainer: arguments, callbacks, and the tail that every recipe shares."""
