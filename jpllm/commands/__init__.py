"""The verbs of the `jpllm` command: each is a function of its arguments, with its keys in one or two dataclasses."""
