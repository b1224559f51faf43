"""Read labelled rows, split them, and encode them for classification and regression."""
