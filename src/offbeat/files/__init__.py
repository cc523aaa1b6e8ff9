"""What is written and read: runs' parts, concepts, tokens, LoRA, pictures. Knows no method."""
