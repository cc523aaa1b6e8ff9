"""Read and write files: concepts, tokens, LoRA factors, pictures. Nothing here knows a method."""
