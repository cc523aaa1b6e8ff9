"""The commands of Offbeat as Python functions, one file each."""
