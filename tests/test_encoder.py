"""The encoder against transformers' ASTModel and timm's transformers, and its region tokens against one by one."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTForAudioClassification, ASTModel

from mp3model.files import InputError
from mp3model.model.checkpoints import timm_names
from mp3model.model.encoder import (
    AST,
    OverlappingPatchEmbed,
    StatisticsPooling,
    grid_of,
    resample_positions,
    sine_positions,
)


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fresh models have zero positions and prefix tokens, which would hide every mistake in them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return module.eval()


def small_ast(**changes) -> ASTModel:
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160}
    return randomised(ASTModel(ASTConfig(**{**sizes, **changes})))


def spectrograms(batch: int, frames: int = 1024, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    model = small_ast()
    folder = tmp_path_factory.mktemp("ast")
    model.save_pretrained(folder)
    with torch.inference_mode():
        return folder, model, model(spectrograms(2)).last_hidden_state


def test_tokens_equal_those_of_transformers_at_1024_frames(reference):
    folder, _, expected = reference
    with torch.inference_mode():
        tokens = AST.from_pretrained(folder).eval().forward_features(spectrograms(2))
    assert tokens.shape == (2, 2 + 12 * 101, 96)
    assert (tokens - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("prefix", ["", "audio_spectrogram_transformer."])
def test_both_layouts_of_key_names_give_the_same_encoder(reference, tmp_path, prefix):
    folder, model, expected = reference
    on_disk = load_file(folder / "model.safetensors")
    in_memory = model.state_dict()
    assert set(on_disk) != set(in_memory), "transformers writes and holds the same names: this test shows nothing"
    for number, state in enumerate((on_disk, in_memory)):
        target = tmp_path / str(number)
        target.mkdir()
        (target / "config.json").write_text((folder / "config.json").read_text())
        renamed = {prefix + key: value.contiguous() for key, value in state.items()}
        if prefix:
            renamed["classifier.dense.weight"] = torch.zeros(5, 96)
        save_file(renamed, target / "model.safetensors")
        with torch.inference_mode():
            tokens = AST.from_pretrained(target).eval().forward_features(spectrograms(2))
        assert (tokens - expected).abs().max() <= 1e-4


def test_a_fine_tuned_classifier_lends_its_encoder(tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    model = randomised(ASTForAudioClassification(ASTConfig(**sizes, num_labels=7)))
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model.audio_spectrogram_transformer(spectrograms(1)).last_hidden_state
        tokens = AST.from_pretrained(tmp_path).eval().forward_features(spectrograms(1))
    assert (tokens - expected).abs().max() <= 1e-4


def test_the_epsilon_of_the_layer_norms_comes_from_the_checkpoint(tmp_path):
    model = small_ast(layer_norm_eps=0.3)
    model.save_pretrained(tmp_path)
    encoder = AST.from_pretrained(tmp_path).eval()
    assert encoder.norm.eps == 0.3
    with torch.inference_mode():
        expected = model(spectrograms(1)).last_hidden_state
        assert (encoder.forward_features(spectrograms(1)) - expected).abs().max() <= 1e-4


def test_a_checkpoint_with_other_strides_and_length_keeps_them(tmp_path):
    model = small_ast(frequency_stride=16, time_stride=8, max_length=256)
    model.save_pretrained(tmp_path)
    encoder = AST.from_pretrained(tmp_path).eval()
    assert encoder.grid == grid_of(256, 128, (16, 16), (16, 8)) == (8, 31)
    with torch.inference_mode():
        expected = model(spectrograms(1, 256)).last_hidden_state
        assert (encoder.forward_features(spectrograms(1, 256)) - expected).abs().max() <= 1e-4


def encoder_with_regions(regions: int = 4, **changes) -> AST:
    return randomised(AST(64, 3, 4, frames=256, regions=regions, **changes))


def test_all_regions_in_one_pass_equal_one_by_one():
    encoder, mel = encoder_with_regions(), spectrograms(2, 256)
    with torch.inference_mode():
        tokens, together = encoder(mel)
        alone = [encoder(mel, torch.tensor([region]))[1] for region in range(4)]
        permuted = encoder(mel, torch.tensor([2, 0, 3]))[1]
    assert (together - torch.cat(alone, dim=1)).abs().max() <= 1e-5
    assert (together[:, [2, 0, 3]] - permuted).abs().max() <= 1e-5
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-2
    assert (tokens - encoder.forward_features(mel)).abs().max() <= 1e-5


def test_region_states_equal_their_slow_twin():
    """One region token at a time, attention written out: it reads the stream and itself, and nobody reads it."""
    encoder, mel = encoder_with_regions(2), spectrograms(1, 256)
    with torch.inference_mode():
        stream, reader = encoder._embed(mel), encoder.region_tokens[:, 1:]
        for block in encoder.blocks:
            seen = torch.cat([stream, reader], dim=1)
            query, key, value = block.attn.qkv(block.norm1(seen)).chunk(3, dim=-1)
            heads = []
            for head in range(4):
                part = slice(16 * head, 16 * head + 16)
                weights = (query[0, -1, part] @ key[0, :, part].T / 4).softmax(-1)
                heads.append(weights @ value[0, :, part])
            reader = reader + block.attn.proj(torch.cat(heads))
            reader = reader + block.mlp(block.norm2(reader))
            stream = block(stream)
        expected = encoder.norm(reader)[0, 0]
        assert (encoder(mel)[1][0, 1] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("position_mode", ["sum", "concat"])
def test_every_parameter_receives_a_gradient(position_mode):
    encoder = encoder_with_regions(position_mode=position_mode).train()
    encoder(spectrograms(2, 256))[1].square().sum().backward()
    silent = [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


HYBRID = {"patch": (16, 16), "stride": (16, 16), "stem_overlap": 4, "stem_blocks": 2, "pooling": "statistics"}


@pytest.mark.parametrize("position_mode", ["sum", "concat"])
@pytest.mark.parametrize("regions", [0, 4])
def test_every_parameter_of_a_convolutional_stem_and_statistics_receives_a_gradient(regions, position_mode):
    encoder = AST(64, 2, 4, frames=256, regions=regions, position_mode=position_mode, **HYBRID).train()
    states = encoder(spectrograms(2, 256))[1]
    assert states.shape == (2, regions or 1, 64)
    states.square().sum().backward()
    silent = [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def test_stem_and_statistics_answer_regions_one_by_one_and_any_length():
    encoder = randomised(AST(64, 2, 4, frames=256, regions=4, **HYBRID))
    with torch.inference_mode():
        for frames in (16, 100, 256, 700):
            mel = spectrograms(2, frames)
            tokens, together = encoder(mel)
            assert tokens.shape == (2, 2 + 8 * (frames // 16), 64)
            assert (tokens - encoder.forward_features(mel)).abs().max() <= 1e-4
            asked = encoder(mel, torch.tensor([3, 1]))[1]
            assert (together[:, [3, 1]] - asked).abs().max() <= 1e-4
            assert together.isfinite().all()


def test_patches_are_dropped_after_the_stem_has_seen_them_all():
    encoder = randomised(AST(64, 2, 4, frames=256, regions=2, patch_drop=0.5, **HYBRID)).train()
    mel, seen = spectrograms(1, 256), []
    encoder.pool.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    tokens, states = encoder(mel)
    assert tokens.shape[1] == 2 + 8 * 16 // 2
    assert seen == [(1, 64, 8, 16)]
    assert states.isfinite().all()


def test_statistics_are_the_mean_and_deviation_of_the_patches():
    pool = StatisticsPooling(2, 2, 3)
    with torch.no_grad():
        pool.fc.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
        pool.fc.bias.zero_()
        pool.region_gains.copy_(torch.tensor([[[1.0, 1.0], [2.0, 1.0], [1.0, -1.0]]]))
        states = pool(torch.tensor([[[[1.0, 3.0]], [[5.0, 1.0]]]]))
    expected = torch.tensor([[[2.0, 2.0], [4.0, 2.0], [2.0, -2.0]]])
    assert (states - expected).abs().max() <= 1e-4


def test_overlapping_looks_move_with_the_sound():
    """A shift of one look's stride along frequency moves the looks by one place, which side by side patches cannot."""
    stem = randomised(OverlappingPatchEmbed(32, (16, 16), (16, 16), 4))
    mel = torch.zeros(1, 64, 128)
    mel[:, :, 40:60] = spectrograms(1, 64)[:, :, :20]
    with torch.inference_mode():
        still, moved = (stem.proj(x.transpose(1, 2).unsqueeze(1)) for x in (mel, mel.roll(4, 2)))
        assert stem(mel).shape == (1, 32, 8, 4)
    assert still.shape[2] == 32
    assert (still[:, :, 2:-3] - moved[:, :, 3:-2]).abs().max() <= 1e-5


def test_the_convolutions_see_the_neighbours_and_no_more():
    encoder = AST(32, 1, 4, frames=256, patch=(16, 16), stride=(16, 16), stem_blocks=1).eval()
    mel = spectrograms(1, 256)
    changed = mel.clone()
    changed[:, 112:128, :] += 3.0
    with torch.inference_mode():
        # Group norm spans the whole grid; without it a change stays where the convolution reaches.
        encoder.stem[0].norm = torch.nn.Identity()
        difference = (encoder._embed(changed) - encoder._embed(mel))[0, 2:].view(8, 16, 32).abs().amax((0, 2))
    assert (difference > 1e-6).nonzero().flatten().tolist() == [6, 7, 8]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stem_overlap": 3}, "stem_overlap 3 .*16 x 16"),
        ({"stem_overlap": 4, "stride": (8, 16)}, "side by side"),
        ({"stem_overlap": 0}, "stem_overlap 0"),
        ({"pooling": "max"}, "'max'; it must be tokens or statistics"),
    ],
)
def test_a_stem_or_pooling_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AST(32, 1, 4, frames=64, **{"patch": (16, 16), "stride": (16, 16), **wrong})


def test_concatenated_positions_have_channels_of_their_own():
    encoder = encoder_with_regions(0, position_mode="concat", position_width=24)
    tokens = encoder._embed(spectrograms(1, 256))
    assert tokens.shape[2] == 64
    assert torch.equal(tokens[0, :, 40:], encoder.pos_embed[0])
    assert torch.equal(tokens[0, 0, :40], encoder.cls_token[0, 0])


def test_patch_drop_leaves_out_its_share_in_training_alone():
    encoder = encoder_with_regions(patch_drop=0.5)
    patches = encoder.grid[0] * encoder.grid[1]
    assert encoder.train()(spectrograms(1, 256))[0].shape[1] == 2 + patches // 2
    assert encoder.eval()(spectrograms(1, 256))[0].shape[1] == 2 + patches


def test_positions_of_the_same_grid_stay_as_they_are():
    positions = torch.randn(1, 2 + 12, 8)
    assert resample_positions(positions, (3, 4), (3, 4)) is positions


@pytest.mark.parametrize(("grid", "width"), [((8, 10), 12), ((1, 30), 16), ((3, 4), 10)])
def test_positions_start_as_rotations_by_distance(grid, width):
    positions = sine_positions(grid, width)[0].view(*grid, width)
    assert positions.shape == (*grid, width)
    assert torch.unique(positions.flatten(0, 1), dim=0).shape[0] == grid[0] * grid[1]
    likeness = positions[0] @ positions[0].T
    for distance in range(1, grid[1]):
        same = likeness.diagonal(distance)
        assert torch.allclose(same, same[0].expand_as(same), atol=1e-5)
        assert same[0] < likeness[0, 0]


def test_cut_positions_are_the_middle_ones_and_prefix_positions_stay():
    positions = torch.arange(2 + 4 * 6, dtype=torch.float32).view(1, -1, 1)
    cut = resample_positions(positions, (2, 4), (4, 6), cut=True)[0, :, 0]
    assert cut.tolist() == [0, 1, 9, 10, 11, 12, 15, 16, 17, 18]


def test_interpolated_positions_keep_a_constant_and_follow_a_slope():
    grid = torch.zeros(1, 2 + 4 * 8, 2)
    grid[0, 2:, 0] = 3.0
    grid[0, 2:, 1] = torch.arange(8.0).repeat(4)
    finer = resample_positions(grid, (4, 16), (4, 8))[0, 2:].view(4, 16, 2)
    assert torch.allclose(finer[..., 0], torch.full((4, 16), 3.0), atol=1e-5)
    steps = finer[:, 3:13, 1].diff(dim=1)
    assert torch.allclose(steps, torch.full_like(steps, 0.5), atol=0.1)


def test_other_lengths_are_read_through_resampled_positions():
    encoder = encoder_with_regions()
    for frames in (16, 100, 256, 700):
        tokens, states = encoder(spectrograms(1, frames))
        grid = grid_of(frames, 128, (16, 16), (10, 10))
        assert tokens.shape == (1, 2 + grid[0] * grid[1], 64)
        assert states.isfinite().all()


def test_a_start_from_an_image_transformer_sums_colours_and_fits_positions(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    image = randomised(timm.create_model(name, pretrained=False))
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    encoder = AST.from_timm(name, tmp_path / "image.safetensors", frames=1024, regions=3).eval()
    assert encoder.norm.eps == 1e-6
    assert encoder.grid == (12, 101)
    colours = image.patch_embed.proj.weight
    assert torch.allclose(encoder.patch_embed.proj.weight[:, 0], colours[:, 0] + colours[:, 1] + colours[:, 2])
    assert torch.equal(encoder.pos_embed[:, :2], image.pos_embed[:, :2])
    tokens = torch.randn(2, 30, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = image.norm(image.blocks(tokens))
        tokens = tokens.clone()
        for block in encoder.blocks:
            tokens = block(tokens)
        tokens = encoder.norm(tokens)
    assert (tokens - expected).abs().max() <= 1e-4


def test_a_start_without_distillation_token_lends_its_class_token_twice(tmp_path):
    name = "vit_tiny_patch16_224"
    image = randomised(timm.create_model(name, pretrained=False))
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    encoder = AST.from_timm(name, tmp_path / "image.safetensors", frames=256)
    assert torch.equal(encoder.dist_token, encoder.cls_token)
    assert torch.equal(encoder.pos_embed[:, 0], encoder.pos_embed[:, 1])


def test_region_tokens_of_a_start_are_near_its_class_token_and_differ(reference):
    encoder = AST.from_pretrained(reference[0], regions=2)
    wanted = encoder.cls_token + encoder.pos_embed[:, :1]
    assert (encoder.region_tokens - wanted).abs().max() < 0.1
    assert not torch.equal(encoder.region_tokens[:, 0], encoder.region_tokens[:, 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nonsense"), "not a whole safetensors file"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "model_type 'vit'"),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps({**json.loads((folder / "config.json").read_text()), "num_hidden_layers": 4})
            ),
            "missing, unknown or do not fit: blocks.3",
        ),
    ],
)
def test_a_start_that_cannot_be_loaded_is_an_error_that_says_why(tmp_path, damage, message):
    small_ast().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        AST.from_pretrained(tmp_path)


def test_an_unknown_name_is_an_error_that_names_it():
    with pytest.raises(InputError, match="nobody/nothing"):
        AST.from_pretrained("nobody/nothing")
    with pytest.raises(InputError, match="no_such_transformer"):
        AST.from_timm("no_such_transformer")


def test_a_missing_projection_is_named():
    state = small_ast().state_dict()
    del state["layers.1.attention.k_proj.weight"]
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.query\.weight"):
        timm_names(state)


def test_a_spectrogram_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"\(1, 256, 64\)"):
        encoder_with_regions().forward_features(torch.zeros(1, 256, 64))
