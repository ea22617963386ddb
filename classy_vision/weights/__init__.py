"""Reading and writing weights: file formats, and the layouts other libraries give their keys."""
