"""Mathematics shared by all layers above; it uses torch and our protocols, errors and types."""
