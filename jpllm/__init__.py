"""jpllm: build a Japanese language model at home, from raw text to proof."""

__version__ = "0.1.0"
