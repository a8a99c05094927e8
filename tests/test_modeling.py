"""MP2Model: regions, save and load, layer groups, and what it refuses."""

from __future__ import annotations

import json

import pytest
import timm.optim
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from mp3model import MP2Model, MP3Config
from mp3model.files import InputError

REGIONS = ["US", "GB", "BR", "JP"]
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "frames": 200, "patch_stride": [16, 16]}
STATISTICS = {
    "total": {region: [6.0 + place, 0.5] for place, region in enumerate(REGIONS)},
    "debut_rank": {region: [100.0, 40.0 + place] for place, region in enumerate(REGIONS)},
}


def small_model(**changes) -> MP2Model:
    torch.manual_seed(0)
    config = MP3Config(**{**SMALL, "regions": REGIONS, "target_statistics": STATISTICS, **changes})
    model = MP2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def waveforms(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 32_240, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
def test_all_regions_in_one_pass_equal_one_by_one(region_mode):
    model = small_model(region_mode=region_mode)
    with torch.inference_mode():
        together = model(waveforms()).predictions
        alone = torch.cat([model(waveforms(), regions=[region]).predictions for region in REGIONS], dim=1)
    assert together.shape == (2, 4, 2)
    assert (together - alone).abs().max() <= 1e-5
    differ = (together[:, 0] - together[:, 1]).abs().max() > 1e-4
    assert differ == (region_mode != "none")


def test_waveforms_and_their_log_mels_give_the_same():
    model = small_model()
    with torch.inference_mode():
        assert torch.equal(model(waveforms()).predictions, model(mel=model.frontend(waveforms())).predictions)


def test_an_unknown_region_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'FR'.*US, GB, BR, JP"):
        small_model()(waveforms(), regions=["US", "FR"])


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
def test_a_new_region_starts_from_the_mean_of_the_others_and_leaves_them_alone(region_mode):
    model = small_model(region_mode=region_mode)
    with torch.inference_mode():
        before = model(waveforms()).predictions
        model.add_regions(["FR"])
        after = model(waveforms()).predictions
    assert model.config.regions == [*REGIONS, "FR"]
    assert torch.allclose(before, after[:, :4], atol=1e-6)
    assert after.shape == (2, 5, 2)
    assert model.config.target_statistics["total"]["FR"] == [7.5, 0.5]
    if region_mode == "token":
        tokens = model.encoder.region_tokens
        assert torch.allclose(tokens[:, 4], tokens[:, :4].mean(1))
    with pytest.raises(InputError, match="FR is already known"):
        model.add_regions(["FR"])


def test_a_model_with_a_new_region_survives_save_and_load(tmp_path):
    model = small_model()
    model.add_regions(["FR"])
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(MP2Model.from_pretrained(tmp_path)(waveforms()).predictions, model(waveforms()).predictions)


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
@pytest.mark.parametrize("criterion", ["both", "streams", "rank"])
def test_every_parameter_receives_a_gradient(region_mode, criterion):
    model = small_model(region_mode=region_mode, criterion=criterion).train()
    targets = torch.randn(2, 4, len(model.config.targets), generator=torch.Generator().manual_seed(2))
    model(waveforms(), targets=targets).loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


HYBRID = {"stem_overlap": 4, "stem_blocks": 1, "pooling": "statistics", "head_dropout": 0.25}


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
def test_every_parameter_of_the_hybrid_receives_a_gradient(region_mode):
    model = small_model(region_mode=region_mode, **HYBRID).train()
    targets = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2))
    model(waveforms(), targets=targets).loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []
    assert model.head.drop.p == 0.25


@pytest.mark.parametrize("region_mode", ["token", "embedding", "none"])
def test_the_hybrid_survives_save_and_load_with_a_new_region(region_mode, tmp_path):
    model = small_model(region_mode=region_mode, **HYBRID)
    with torch.inference_mode():
        before = model(waveforms()).predictions
        model.add_regions(["FR"])
        model.save_pretrained(tmp_path)
        loaded = MP2Model.from_pretrained(tmp_path).eval()
        after = loaded(waveforms()).predictions
        alone = loaded(waveforms(), regions=["FR", "BR"]).predictions
    assert after.shape == (2, 5, 2)
    assert (before - after[:, :4]).abs().max() <= 1e-5
    assert (after[:, [4, 2]] - alone).abs().max() <= 1e-5


def test_the_layer_groups_of_the_hybrid_put_all_of_its_stem_below_the_blocks():
    model = small_model(**HYBRID)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {id(value): name for name, value in model.named_parameters()}
    found = {names[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert (
        found["encoder.stem.0.conv.weight"]["lr_scale"] == found["encoder.patch_embed.join.weight"]["lr_scale"] == 0.125
    )
    assert found["encoder.pool.fc.weight"]["lr_scale"] == 1.0
    for name in ("encoder.frequency_embed", "encoder.pool.region_gains"):
        assert found[name]["weight_decay"] == 0


def test_weights_and_buffers_are_equal_after_save_and_load(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = MP2Model.from_pretrained(tmp_path)
    expected, got = model.state_dict(), loaded.state_dict()
    assert set(expected) == set(got)
    assert {"frontend.window", "frontend.filters", "frontend.mean", "frontend.std"} <= set(got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()


def test_a_normalisation_for_each_band_survives_save_and_load(tmp_path):
    model = small_model(mel_mean=[-4.0 + band / 100 for band in range(128)], mel_std=[2.5] * 128)
    model.save_pretrained(tmp_path)
    loaded = MP2Model.from_pretrained(tmp_path)
    assert loaded.config.mel_mean == model.config.mel_mean
    with torch.inference_mode():
        assert torch.equal(loaded.frontend(waveforms()), model.frontend(waveforms()))


def test_the_auto_classes_of_transformers_know_the_model(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MP3Config)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MP2Model)


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_name(tmp_path):
    small_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.blocks.0.attn.qkv.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"encoder\.blocks\.0\.attn\.qkv\.weight"):
        MP2Model.from_pretrained(tmp_path)


def test_a_pickled_checkpoint_is_not_read(tmp_path):
    small_model().save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        MP2Model.from_pretrained(tmp_path)


def test_an_unknown_key_in_the_configuration_is_refused(tmp_path):
    small_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hiden_size": 5}))
    with pytest.raises(ValueError, match="does not know hiden_size"):
        MP2Model.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"region_mode": "tokens"}, "'tokens'.*token, embedding, none"),
        ({"position_mode": "add"}, "'add'.*sum, concat"),
        ({"criterion": "mse"}, "'mse'.*both, streams, rank"),
        ({"num_attention_heads": 5}, "48 is not a multiple of num_attention_heads 5"),
        ({"patch_size": [16, 400]}, "time: a patch of 400"),
        ({"pooling": "mean"}, "'mean'.*tokens, statistics"),
        ({"stem_blocks": -1}, "stem_blocks is -1"),
        ({"stem_overlap": 3}, "stem_overlap 3 does not divide"),
        ({"stem_overlap": 2, "patch_size": [16, 8]}, "side by side"),
        ({"regions": ["US", "US"]}, "twice"),
        ({"regions": []}, "names no region"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_its_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        MP2Model(MP3Config(**{**SMALL, "regions": REGIONS, **wrong}))


def test_the_clip_length_of_the_configuration_gives_exactly_its_frames():
    model = small_model()
    assert model.frontend(torch.zeros(1, model.config.samples)).shape[1] == model.config.frames
    assert model.frontend(torch.zeros(1, model.config.samples - 1)).shape[1] == model.config.frames - 1


def test_natural_units_undo_the_standardisation_of_each_region():
    predictions = torch.zeros(1, 4, 2)
    predictions[0, 1] = torch.tensor([2.0, -1.0])
    natural = small_model().natural_units(predictions)
    assert natural[0, 0].tolist() == [6.0, 100.0]
    assert natural[0, 1].tolist() == [8.0, 59.0]
    assert small_model().natural_units(predictions[:, 1:2], ["GB"])[0, 0].tolist() == [8.0, 59.0]


def test_lower_layers_learn_more_slowly_and_tokens_do_not_decay():
    model = small_model()
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {id(value): name for name, value in model.named_parameters()}
    scale, decay = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            scale[names[id(parameter)]], decay[names[id(parameter)]] = group["lr_scale"], group["weight_decay"]
    assert set(scale) == set(names.values())
    assert scale["head.fc.weight"] == scale["encoder.norm.weight"] == 1.0
    assert scale["encoder.blocks.1.attn.qkv.weight"] == 0.5
    assert scale["encoder.blocks.0.attn.qkv.weight"] == 0.25
    assert scale["encoder.patch_embed.proj.weight"] == scale["encoder.region_tokens"] == 0.125
    assert decay["encoder.blocks.0.mlp.fc1.weight"] == 0.1
    for name in ("encoder.region_tokens", "encoder.pos_embed", "encoder.cls_token", "encoder.norm.weight"):
        assert decay[name] == 0
