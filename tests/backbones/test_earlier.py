"""Several maps of one backbone: which layers they come from, and that nothing else changes."""

import re
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ggam.backbones.build import LAST, Backbone, create_backbone
from ggam.backbones.torchvision_models import Trunk
from ggam.backbones.weights import BackboneError
from ggam.methods.insertion import insert_attention

PREVIOUS = {"previous": 1}
# Each family, and the shapes of the map before the last and of the last for a 64-pixel picture.
SHAPES = {
    "resnet10t": ((256, 4, 4), (512, 2, 2)),
    "vgg11": ((512, 4, 4), (512, 2, 2)),
    "convnext_atto": ((160, 4, 4), (320, 2, 2)),
    "vit_tiny_patch16_224": ((192, 4, 4), (192, 4, 4)),
    "swin_tiny_patch4_window7_224": ((384, 4, 4), (768, 2, 2)),
    "torchvision/resnet18": ((256, 4, 4), (512, 2, 2)),
    "torchvision/squeezenet1_1": ((256, 7, 7), (512, 3, 3)),
    "torchvision/densenet121": ((1024, 4, 4), (1024, 2, 2)),
    "torchvision/regnet_x_400mf": ((160, 4, 4), (400, 2, 2)),
    "torchvision/mobilenet_v3_small": ((48, 4, 4), (576, 2, 2)),
}


def picture(size: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(name: str | nn.Module, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, **{"pretrained": False, "image_size": 64, **options}).eval()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_gradients_and_names_of_every_family(name: str) -> None:
    plain, backbone = build(name), build(name, earlier=PREVIOUS)
    assert list(plain.state_dict()) == list(backbone.state_dict())
    maps = backbone(picture())
    assert list(maps) == [LAST, "previous"]
    assert tuple(maps[key].shape[1:] for key in ("previous", LAST)) == SHAPES[name]
    assert backbone.channels_of == {key: found.shape[1] for key, found in maps.items()}
    assert backbone.channels == backbone.channels_of[LAST] == plain.channels
    torch.testing.assert_close(maps[LAST], plain(picture())[LAST], rtol=0, atol=0)
    parameters = list(backbone.parameters())
    for found in maps.values():
        gradients = torch.autograd.grad(
            found.square().sum(), parameters, retain_graph=True, allow_unused=found is not maps[LAST]
        )
        assert gradients[0] is not None and gradients[0].abs().sum() > 0


@pytest.mark.parametrize("stage", [None, -2])
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_timm_maps_are_those_of_its_own_feature_extraction(name: str, stage: int | None) -> None:
    backbone = build(name, stage=stage, earlier={"two": 2, "one": 1, "again": 1})
    swin: dict[str, Any] = {"img_size": 64} if "swin" in name else {}
    full: Any = timm.create_model(name, features_only=True, **swin).eval()
    flat = re.compile(r"^(stem|stages|layers)\.(?=\d)")  # as features_only names them
    state = cast(Any, backbone.body).model.state_dict()
    missing, _ = full.load_state_dict({flat.sub(r"\1_", key): state[key] for key in state}, strict=False)
    last = len(full.feature_info) + (-1 if stage is None else stage)
    assert all(f"{len(full.feature_info) - 1}" in key.split(".")[0] for key in missing)
    with torch.no_grad():
        wanted = [each.permute(0, 3, 1, 2) if swin else each for each in full(picture())]
        maps = backbone(picture())
    torch.testing.assert_close(maps["one"], wanted[last - 1])
    torch.testing.assert_close(maps["two"], wanted[last - 2])
    assert maps["again"] is maps["one"]
    if stage is not None:  # the last stage has the network's own norm on top
        torch.testing.assert_close(maps[LAST], wanted[last])


def test_every_block_of_a_vit_is_a_stage() -> None:
    """Its own norm is on all maps, as timm has it: it has one width and one norm."""
    backbone = build("test_vit", earlier={"before": 2})
    model = cast(Any, backbone.body).model
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(picture())))
        for block in model.blocks[:-2]:
            tokens = block(tokens)
        wanted = model.norm(tokens)[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(backbone(picture())["before"], wanted)


def test_layers_of_a_torchvision_resnet_by_hand() -> None:
    backbone = build("torchvision/resnet18", earlier={"stem": 4, "early": 2, "previous": 1})
    full: Any = torchvision.models.resnet18().eval()
    full.load_state_dict(backbone.body.state_dict(), strict=False)
    with torch.no_grad():
        maps = backbone(picture())
        stem = full.relu(full.bn1(full.conv1(picture())))
        torch.testing.assert_close(maps["stem"], stem)
        early = full.layer2(full.layer1(full.maxpool(stem)))
        torch.testing.assert_close(maps["early"], early)
        previous = full.layer3(early)
        torch.testing.assert_close(maps["previous"], previous)
        torch.testing.assert_close(maps[LAST], full.layer4(previous))


@pytest.mark.parametrize(("name", "pooling"), [("vgg11_bn", 28), ("squeezenet1_1", 8), ("alexnet", 12)])
def test_a_stack_gives_the_map_before_its_last_pooling(name: str, pooling: int) -> None:
    backbone = build(f"torchvision/{name}", earlier=PREVIOUS, image_size=96)
    features = cast(nn.Sequential, backbone.body.get_submodule("features"))
    assert isinstance(features[pooling], nn.MaxPool2d)
    with torch.no_grad():
        maps = backbone(picture(96))
        torch.testing.assert_close(maps["previous"], features[:pooling](picture(96)))
        torch.testing.assert_close(maps[LAST], features(picture(96)))


def test_stages_before_a_chosen_layer() -> None:
    backbone = build("torchvision/squeezenet1_1", stage="features.9", earlier=PREVIOUS)
    features = cast(nn.Sequential, backbone.body.get_submodule("features"))
    assert len(features) == 10
    with torch.no_grad():
        torch.testing.assert_close(backbone(picture())["previous"], features[:8](picture()))


def test_timms_vgg_and_torchvisions_agree_on_what_lies_before() -> None:
    ours, theirs = (build(f"{prefix}vgg11", earlier={"a": 1, "b": 3}) for prefix in ("", "torchvision/"))
    states = (iter(backbone.state_dict().values()) for backbone in (ours, theirs))
    assert all(first.copy_(second) is first for first, second in zip(*states, strict=True))
    with torch.no_grad():
        first, second = ours(picture()), theirs(picture())
    for name in ("a", "b", LAST):
        torch.testing.assert_close(first[name], second[name])


def test_hooks_on_whole_stages_still_see_them_run() -> None:
    backbone = build("torchvision/resnet18", earlier=PREVIOUS)
    seen: list[Any] = []
    backbone.body.get_submodule("layer3").register_forward_hook(lambda _, __, output: seen.append(output))
    assert backbone(picture())["previous"] is seen[0]


def test_attention_put_into_the_layer_of_an_earlier_map_is_part_of_it() -> None:
    backbone = build("torchvision/squeezenet1_1", earlier=PREVIOUS)
    before = backbone(picture())["previous"].detach()
    insert_attention(backbone, lambda channels: Twice(), "torchvision/squeezenet1_1")
    torch.testing.assert_close(backbone(picture())["previous"], 8 * before)  # in three stages so far


class Twice(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * features


@pytest.mark.parametrize(
    ("name", "earlier"),
    [("test_resnet", PREVIOUS), ("torchvision/squeezenet1_1", PREVIOUS), ("torchvision/squeezenet1_1", {})],
)
def test_compilation_export_and_half_precision_give_maps_by_name(name: str, earlier: dict[str, int]) -> None:
    backbone = build(name, earlier=earlier)
    wanted = backbone(picture())
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(backbone, (picture(),), dynamic_shapes=dynamic, strict=False).module()
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(picture())
    assert list(half) == list(wanted) and {found.dtype for found in half.values()} == {torch.bfloat16}
    torch.testing.assert_close(exported(picture()), wanted)
    assert exported(picture(count=3))[LAST].shape[0] == 3
    backbone.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(backbone(picture()), wanted)


@pytest.mark.parametrize(
    ("name", "earlier", "message"),
    [
        (
            "test_resnet",
            {"x": 5},
            "'test_resnet' has no map 'x' 5 stages before its last: there are 4",
        ),
        ("test_resnet", {"x": 0}, "no map 'x' 0 stages before its last"),
        ("torchvision/squeezenet1_1", {"ok": 3, "x": 4}, "has no map 'x' 4 stages.*there are 3"),
        (
            "torchvision/swin_t",
            PREVIOUS,
            r"shape \(1, 2, 2, 768\) as 'previous': expected a channels-first",
        ),
        ("torchvision/vit_b_16", PREVIOUS, "'torchvision/vit_b_16' cannot read a 64-pixel picture"),
    ],
)
def test_maps_that_cannot_be_had_are_refused_in_one_line(
    name: str, earlier: dict[str, int], message: str
) -> None:
    with pytest.raises(BackboneError, match=message) as error:
        build(name, earlier=earlier)
    assert "\n" not in str(error.value)


class Pyramid(nn.Module):
    """A module of somebody's, which gives its maps by name."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=4)
        self.second = nn.Conv2d(4, 6, 3, stride=4)
        self.names = names

    def forward(self, images: Tensor) -> dict[str, Any]:
        first = self.first(images)
        maps = {
            "previous": first,
            LAST: self.second(first),
            "flat": first.permute(0, 2, 3, 1),
            "note": 1,
        }
        return {name: maps[name] for name in self.names}


def test_a_module_may_give_several_maps_itself() -> None:
    module = Pyramid(LAST, "note", "previous")
    backbone = build(module, earlier=PREVIOUS)
    assert backbone.channels_of == {LAST: 6, "previous": 4}
    maps = backbone(picture())
    assert list(maps) == [LAST, "previous"]
    assert torch.equal(maps["previous"], module.first(picture()))
    assert list(build(module)(picture())) == [LAST]


def test_torchvisions_extractor_is_such_a_module() -> None:
    full = torchvision.models.resnet18().eval()
    module = create_feature_extractor(full, {"layer3": "previous", "layer4": LAST})
    backbone = build(module, earlier=PREVIOUS)
    named = build("torchvision/resnet18", earlier=PREVIOUS)
    named.body.load_state_dict(full.state_dict(), strict=False)
    for name, found in named(picture()).items():
        torch.testing.assert_close(backbone(picture())[name], found)


@pytest.mark.parametrize(
    ("module", "earlier", "message"),
    [
        (
            nn.Conv2d(3, 4, 3),
            PREVIOUS,
            "no map 'previous', only last: expected a mapping of last, previous",
        ),
        (Pyramid(LAST), PREVIOUS, "gives no map 'previous', only last"),
        (Pyramid("previous"), {}, "gives no map 'last', only previous: .*one bare map"),
        (
            Pyramid(LAST, "flat"),
            {"flat": 1},
            r"shape \(1, 16, 16, 4\) as 'flat': expected a channels-first map",
        ),
        (Pyramid(LAST, "note"), {"note": 1}, "returns int as 'note': expected a channels-first map"),
    ],
)
def test_a_module_without_the_wanted_maps_is_refused_in_one_line(
    module: nn.Module, earlier: dict[str, int], message: str
) -> None:
    with pytest.raises(BackboneError, match=message) as error:
        build(module, earlier=earlier)
    assert "\n" not in str(error.value)


def test_a_map_that_changes_later_is_named_then() -> None:
    backbone = build("torchvision/resnet18", earlier=PREVIOUS)
    cast(Trunk, backbone.body).kept["previous"] = "layer2"
    with pytest.raises(BackboneError, match=r"\(2, 128, 8, 8\) as 'previous': expected \(B, 256, H, W\)"):
        backbone(picture())
