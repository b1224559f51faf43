"""Strict configuration: dataclasses that declare keys, read from one YAML file and the command line."""
