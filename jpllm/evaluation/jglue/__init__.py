"""JGLUE, JCoLA and JAQKET: their files, a model's answers, and the scores of these."""
