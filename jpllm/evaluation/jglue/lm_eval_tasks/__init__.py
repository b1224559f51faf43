"""JGLUE, JCoLA and JAQKET as tasks of lm-evaluation-harness: `lm_eval --include_path` of this folder runs them.

Nothing here imports jpllm, so a copy of the folder works by itself.
"""
