"""The record of a run: metrics, plots, reports."""
