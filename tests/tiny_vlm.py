"""Small random checkpoints of the real vision-language classes, saved as the published ones are."""

import torch
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils.logging import disable_progress_bar

WORDS = [" yes", " Yes", " no", " No", " cat", " dog", "yes", "Yes", "no", "No", "cat", "dog"]
TEMPLATE = (
    "{% for m in messages %}user:{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
PIXELS = {"height": 16, "width": 16}


def bpe(*special, image=None, bos="<s>", **marks):
    """Return a byte-level tokenizer in which the words of ``WORDS`` are one token each."""
    table = bytes_to_unicode()
    pieces = ["<pad>", bos, "</s>", "<unk>", *special, *sorted(table.values())]
    merges = []
    for word in WORDS:
        letters = ["".join(table[b] for b in char.encode()) for char in word]
        while len(letters) > 1:
            pair = (letters[0], letters[1])
            letters = ["".join(pair), *letters[2:]]
            if pair not in merges:
                merges.append(pair)
                pieces.append(letters[0])
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = ByteLevelDecoder()
    inner.add_special_tokens(["<pad>", bos, "</s>", "<unk>", *special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token=bos,
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=marks,
    )
    if image:
        tokenizer.chat_template = TEMPLATE.replace("IMAGE", image)
    return tokenizer


def ids(tokenizer):
    return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokenizer)}


def write(folder, model_class, config, *parts):
    disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
        with torch.no_grad():  # what is random by default answers all pictures alike
            for param in model.parameters():
                param.add_(torch.randn_like(param) * 0.2)
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def blip(folder):
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForQuestionAnswering,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = "yes no is it this still a an or what in the photo cat dog siamese pet kind of one word"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"?.", *words.split()]
    tokenizer = BertTokenizer(vocab={p: i for i, p in enumerate(pieces)})
    text = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
    config = BlipConfig(
        text_config=BlipTextConfig(
            **text,
            vocab_size=len(pieces),
            encoder_hidden_size=32,
            bos_token_id=5,
            sep_token_id=3,
            eos_token_id=3,
            pad_token_id=0,
            projection_dim=8,
        ).to_dict(),
        vision_config=BlipVisionConfig(**{**VISION, "hidden_size": 32}).to_dict(),
        projection_dim=8,
        image_text_hidden_size=8,
    )
    processor = BlipProcessor(BlipImageProcessorPil(size=PIXELS), tokenizer)
    return write(folder, BlipForQuestionAnswering, config, processor)


def blip2(folder, language="opt"):
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
        T5Config,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = bpe("<image>")
    if language == "opt":
        text = OPTConfig(
            **ids(tokenizer),
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            max_position_embeddings=256,
        )
    else:
        text = T5Config(
            **ids(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            encoder_hidden_size=16,
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = Blip2Processor(BlipImageProcessorPil(size=PIXELS), tokenizer, num_query_tokens=4)
    return write(folder, Blip2ForConditionalGeneration, config, processor)


def llava_next(folder):
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
        MistralConfig,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    tokenizer = bpe("<image>", image="<image>", image_token="<image>")
    grids = [[16, 32], [32, 16], [32, 32]]
    config = LlavaNextConfig(
        text_config=MistralConfig(**TEXT, **ids(tokenizer)).to_dict(),
        vision_config=CLIPVisionConfig(**VISION, projection_dim=8).to_dict(),
        image_grid_pinpoints=grids,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size=PIXELS, image_grid_pinpoints=grids
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return write(folder, LlavaNextForConditionalGeneration, config, processor)


def janus(folder):
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusProcessor,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    marks = {"image_token": "<image_mark>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    tokenizer = bpe(*marks.values(), image="<image_mark>", **marks)
    config = JanusConfig(
        text_config=LlamaConfig(**TEXT, **ids(tokenizer)).to_dict(),
        vision_config=JanusVisionConfig(
            **{**VISION, "mlp_ratio": 1.5}, projection_dim=32, num_image_tokens=4, depth=2
        ).to_dict(),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=16,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            latent_channels=8,
            projection_dim=32,
            image_token_embed_dim=32,
        ).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_mark>"),
    )
    processor = JanusProcessor(
        JanusImageProcessorPil(size=PIXELS, min_size=2),
        tokenizer,
        num_image_tokens=4,
        chat_template=tokenizer.chat_template,
    )
    return write(folder, JanusForConditionalGeneration, config, processor)


def qwen(folder):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = bpe(*special, image="<|vision_start|><|image_pad|><|vision_end|>")
    named = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            **ids(tokenizer),
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 32,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=named("<|image_pad|>"),
        video_token_id=named("<|video_pad|>"),
        vision_start_token_id=named("<|vision_start|>"),
        vision_end_token_id=named("<|vision_end|>"),
    )
    pixels = Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    )
    return write(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer, pixels)


def smolvlm(folder):
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return _tiled(folder, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil)


def idefics3(folder):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    _tiled(folder, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pixels = Idefics3ImageProcessorPil.from_pretrained(folder)
    template = tokenizer.chat_template
    Idefics3Processor(pixels, tokenizer, image_seq_len=1, chat_template=template).save_pretrained(
        folder
    )
    return folder


def _tiled(folder, config_class, model_class, processor_class):
    tiles = [f"<row_{r}_col_{c}>" for r in range(1, 3) for c in range(1, 3)]
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles)
    tokenizer = bpe(*special, image="<image>", image_token="<image>")
    config = config_class(
        text_config={"model_type": "llama", **TEXT, **ids(tokenizer)},
        vision_config=VISION,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    pixels = processor_class(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return write(folder, model_class, config, tokenizer, pixels)


BUILDERS = {
    "blip-vqa": blip,
    "blip2": blip2,
    "blip2-t5": lambda folder: blip2(folder, "t5"),
    "llava-next": llava_next,
    "janus": janus,
    "qwen2.5-vl": qwen,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
}
