"""The names that a Stable Diffusion checkpoint has in a single file, as its authors gave them."""

import re

from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
PER_BLOCK = 2
"""Places that a block of the tiny U-Net takes."""


def save_single_file(pipe, file):
    """Save U-Net, autoencoder and text encoder of a tiny SD pipeline in one file."""
    tensors = {}
    for name, tensor in pipe.unet.state_dict().items():
        tensors["model.diffusion_model." + _unet_name(name)] = tensor
    for name, tensor in pipe.vae.state_dict().items():
        new = _vae_name(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new)
        tensors["first_stage_model." + new] = tensor[..., None, None] if is_projection else tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        tensors["cond_stage_model.transformer.text_model." + name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def _unet_name(name):
    for ours, theirs in OUTER.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, number, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    side, block, kind, number, rest = re.match(
        r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name
    ).groups()
    first = PER_BLOCK * int(block) + int(number)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{PER_BLOCK * (int(block) + 1)}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + first}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
    if kind == "upsamplers":
        has_attention = int(block == "0")
        return f"output_blocks.{PER_BLOCK * int(block) + 1}.{1 + has_attention}.{rest}"
    return f"output_blocks.{first}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind, rest):
    if kind == "attentions":
        return rest
    part, _, end = rest.rpartition(".")
    return f"{RESNET[part]}.{end}"


def _vae_name(name):
    for ours, theirs in (
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
        (r"to_out\.0", "proj_out"),
        (r"to_([qkv])", r"\1"),
    ):
        name = re.sub(ours, theirs, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(
        r"up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)",
        lambda found: (
            f"up.{1 - int(found[1])}." + (f"block.{found[3]}" if found[3] else "upsample")
        ),
        name,
    )
    return name
