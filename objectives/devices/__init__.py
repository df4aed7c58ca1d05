"""Several devices that train one model together: one process each, of which the first leads."""
