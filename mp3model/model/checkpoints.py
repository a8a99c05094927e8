"""An encoder's checkpoint from elsewhere in, its sizes and its weights under timm's names out; nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mp3model.files import InputError

PREFIX_TOKENS = 2  # class and distillation


def read_ast(name_or_folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An AST checkpoint of transformers, from a folder or the hub → `AST`'s arguments and weights.

    Raises:
        InputError: If a file is missing or damaged, or describes another kind of model.
    """
    file = _checkpoint_file(name_or_folder, "config.json")
    try:
        settings = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: is no JSON ({_first_line(error)}); fetch it again") from error
    if not isinstance(settings, dict):
        raise InputError(f"{file}: holds a {type(settings).__name__} instead of an object; fetch it again")
    activation = settings.get("hidden_act", "gelu")
    if settings.get("model_type") != "audio-spectrogram-transformer" or activation != "gelu":
        raise InputError(
            f"{name_or_folder}: config.json describes model_type {settings.get('model_type')!r} with activation "
            f"{activation!r}; an audio-spectrogram-transformer with gelu is needed"
        )
    return ast_arguments(settings), timm_names(_read_safetensors(name_or_folder))


def read_image_transformer(name: str, weights: str | Path | None) -> tuple[Any, dict[str, Tensor]]:
    """An image transformer of timm → the model itself, for its sizes, and its weights for sound.

    Patch weights are summed over RGB; a model without a distillation token lends its class token twice; heads are left
    out.

    Args:
        name: timm's name.
        weights: A safetensors file to read instead of timm's download.

    Raises:
        InputError: If timm does not know the name, cannot load it, or it is no plain vision transformer.
    """
    import timm
    from safetensors import SafetensorError

    if weights and Path(weights).suffix != ".safetensors":  # timm would read it as a pickle
        raise InputError(f"{weights}: is no .safetensors file; nothing else is read")
    overlay = {"file": str(weights)} if weights else None
    try:
        image = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{name}: timm cannot load it ({_first_line(error)})") from error
    state = {key: value for key, value in image.state_dict().items() if not re.match(r"(head|fc_norm)", key)}
    if "patch_embed.proj.weight" not in state or "pos_embed" not in state:
        raise InputError(f"{name}: no patch or position embedding, so it is no plain vision transformer")
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    prefix = image.num_prefix_tokens
    if "dist_token" not in state:
        state["dist_token"] = state["cls_token"].clone()
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], state["pos_embed"]], dim=1)
        prefix += 1
    if prefix != PREFIX_TOKENS:
        raise InputError(f"{name}: {prefix} prefix tokens; one or two are understood")
    return image, state


def ast_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`AST`'s arguments from the `config.json` of an ASTModel; absent keys take transformers' defaults."""
    width = settings.get("hidden_size", 768)
    patch = settings.get("patch_size", 16)
    return {
        "width": width,
        "depth": settings.get("num_hidden_layers", 12),
        "heads": settings.get("num_attention_heads", 12),
        "mlp_ratio": settings.get("intermediate_size", 3072) / width,
        "mels": settings.get("num_mel_bins", 128),
        "frames": settings.get("max_length", 1024),
        "patch": (patch, patch) if isinstance(patch, int) else tuple(patch),
        "stride": (settings.get("frequency_stride", 10), settings.get("time_stride", 10)),
        "layer_norm_eps": settings.get("layer_norm_eps", 1e-12),
        "qkv_bias": settings.get("qkv_bias", True),
    }


# Source names of transformers 4 (encoder.layer.0.…) and 5 (layers.0.…), each beside timm's.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An ASTModel's weights under timm's names, query, key and value fused; a classification head is left out."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("audio_spectrogram_transformer.")
        if name.startswith("classifier."):
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(query.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise InputError(f"{query}: its key or value projection is missing from the checkpoint")
        renamed[query.replace(".query.", ".qkv.")] = torch.cat([part for part in parts if part is not None])
    return renamed


def _checkpoint_file(name_or_folder: str | Path, filename: str) -> Path:
    """A checkpoint's file in a folder, or from the hub's cache or download."""
    from transformers.utils import cached_file

    folder = Path(name_or_folder)
    if folder.is_dir():
        if not (folder / filename).is_file():
            raise InputError(f"{folder}: no {filename} in this folder; an encoder needs config.json, model.safetensors")
        return folder / filename
    try:
        found = cached_file(str(name_or_folder), filename)
    except OSError as error:
        raise InputError(
            f"{name_or_folder}: neither a folder here nor a checkpoint the hub gives ({_first_line(error)})"
        ) from error
    assert found is not None
    return Path(found)


def _read_safetensors(name_or_folder: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _checkpoint_file(name_or_folder, "model.safetensors")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({_first_line(error)}); fetch it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
