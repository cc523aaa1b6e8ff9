"""The unCLIP prior's plain loop, as the pipelines of diffusers run it, padding and all."""

import torch


def plain_sample(prior, scheduler, text, negative, *, num_samples, steps, scale, generator):
    """Return samples of a prompt, ``[num_samples, D]``, with gradient."""
    full = prior.config.num_embeddings

    def widen(part):
        missing = full - part.text_mask.shape[1]
        pad = torch.nn.functional.pad
        states = pad(part.text_encoder_hidden_states, (0, 0, 0, missing))
        return (
            part.text_embeds.expand(num_samples, -1).to(prior.dtype),
            states.expand(num_samples, -1, -1).to(prior.dtype),
            pad(part.text_mask, (0, missing)).expand(num_samples, -1),
        )

    halves = zip(widen(negative), widen(text), strict=True)
    pooled, states, mask = (torch.cat(pair) for pair in halves)
    scheduler.set_timesteps(steps, device=pooled.device)
    timesteps = scheduler.timesteps
    latents = torch.randn(num_samples, prior.config.embedding_dim, generator=generator)
    latents = latents.to(pooled)
    for index, timestep in enumerate(timesteps):
        predicted = prior(
            torch.cat([latents, latents]),
            timestep=timestep,
            proj_embedding=pooled,
            encoder_hidden_states=states,
            attention_mask=mask,
        ).predicted_image_embedding
        uncond, cond = predicted.chunk(2)
        earlier = timesteps[index + 1] if index + 1 < len(timesteps) else None
        latents = scheduler.step(
            uncond + scale * (cond - uncond),
            timestep,
            latents,
            prev_timestep=earlier,
            generator=generator,
        ).prev_sample
    return prior.post_process_latents(latents)


def add_adapter(prior, rank):
    """Give a prior PEFT's LoRA factors; return them by our names."""
    from peft import LoraConfig

    from offbeat.backbones.unclip.prior import LORA_TARGETS

    prior.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS)))
    return {
        name.replace(".default", ""): parameter
        for name, parameter in prior.named_parameters()
        if "lora_" in name
    }
