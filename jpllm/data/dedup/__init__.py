"""Find duplicate documents and list them for packing to leave out."""
