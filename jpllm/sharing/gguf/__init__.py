"""A model and its tokenizer as a GGUF file for llama.cpp, which proves the file itself."""
