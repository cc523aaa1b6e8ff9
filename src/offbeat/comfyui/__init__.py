"""Offbeat for ComfyUI: concepts in prompts, fused words, and how unusual a picture is.

Reads Offbeat's files alone: neither Offbeat nor diffusers need be installed beside ComfyUI.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
