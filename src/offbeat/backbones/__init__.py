"""Adapters over diffusers components; a checkpoint is a name, a hub id or a folder."""
