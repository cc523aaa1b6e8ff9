"""The unCLIP form: a prior from text to an image embedding, and a decoder to pixels."""
