"""Clean documents by rules: the pipeline, the rules, and a preview of what they do."""
