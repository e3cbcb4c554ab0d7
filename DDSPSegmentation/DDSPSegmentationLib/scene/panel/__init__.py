"""The panel of the module: one file a section, and one that joins them."""
