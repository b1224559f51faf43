"""Runs beside each other: what a comparison holds, and the page, the Markdown and the table that show it."""
