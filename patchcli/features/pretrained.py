"""Features of a pretrained backbone of timm, convolutional (PatchCore) or a vision transformer (AnomalyDINO)."""

import contextlib
import difflib
import logging
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcli.errors import InputError
from patchcli.features.encoder import Encoder, Scale
from patchcli.features.fixed import FixedEncoder

BLUR = 4.0  # σ of the map's Gaussian, in pixels, as PatchCore's
STRIDES = (8, 16)  # of the stages that PatchCore takes
_OPERATORS: list[torch.library.Library] = []  # their signatures last as long as this does


class PretrainedEncoder(Encoder):
    """Patch features of a backbone of timm, with a patch for each cell of the finest layer's grid; fixed features beside them.

    Convolutional (PatchCore, Roth et al., CVPR 2022): 3×3 local means of each layer, brought to the finest grid and
    concatenated. Zeros beyond the border count, as in the authors' code: means over fewer cells are less alike, and the border
    of a good image would be farther from the bank than the rest of it. Transformers (AnomalyDINO, Damm et al., WACV 2025):
    patch tokens after the final norm, of length 1, so that Euclidean distances order them as cosines do. The convolutions are
    padded: a feature stands for its cell but sees beyond it.
    """

    padded, centred = True, False
    scales: Mapping[str, Scale] = {}  # an instance has its own
    unlearned: Mapping[str, Scale] = {}
    mean: Tensor  # (3, 1, 1) and
    std: Tensor  # what the backbone was trained with, for pixels from 0 to 1

    def __init__(self, D: int = 0, *, backbone: str, layers: Sequence[int] = ()) -> None:
        """`layers` are places in timm's feature_info; D is what they have together. Raises InputError."""
        super().__init__(D)
        self.backbone = create(backbone)
        self.whole = {name: tuple(values.shape) for name, values in self.backbone.state_dict().items()}
        described: Any = self.backbone.feature_info
        stages = list(getattr(described, "info", described))
        every = [int(stage["reduction"]) for stage in stages]
        self.transformer = len(set(every)) == 1  # whose blocks share one grid of tokens
        self.layers = sorted(layers) or usual(every)
        for layer in self.layers:
            if not 0 <= layer < len(stages):
                raise InputError(f"{layer}", parameter="layers", expected=f"numbers from 0 to {len(stages) - 1}, of {backbone}")
        self._strides = [every[layer] for layer in self.layers]
        self.D = sum(stages[layer]["num_chs"] for layer in self.layers)
        self.stride = min(self._strides)
        self.fixed = FixedEncoder(self.D)
        own = {"pretrained": Scale(self.stride, self.stride, "pretrained", learned=False, blur=BLUR)}
        alone = FixedEncoder.scales["fixed"]
        fixed = replace(alone, S=-(-alone.S // self.stride) * self.stride, fine=None)  # on the grid of the dense features
        self.scales = self.unlearned = {**own, "fixed": fixed}
        options = {"prune_norm": not self.transformer, "prune_head": True}
        self._kept = self.backbone.prune_intermediate_layers(self.layers, **options)  # type: ignore[operator]
        data = timm().data.resolve_data_config(model=self.backbone)
        self.side = int(data["input_size"][-1])  # of the images that the backbone was trained with
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(data[name], dtype=torch.float32)[:, None, None])

    def fit(self, images: Tensor, floor: float) -> None:
        """Fit the fixed features to good images (B, 3, H, W)."""
        self.fixed.fit(images, floor)

    def dense(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Images (B, 3, H, W), levels from 0 to 1 → {"pretrained": (B, D, H//stride, W//stride), "fixed": …}."""
        step = self.stride // self.fixed.stride
        found = {}
        if wanted is None or "pretrained" in wanted:
            found["pretrained"] = self._of_backbone(images)
        if min(images.shape[-2:]) >= self.scales["fixed"].K and (wanted is None or "fixed" in wanted):
            found["fixed"] = self.fixed.every(step, images)
        return found

    def _of_backbone(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) → (B, D, H//stride, W//stride)."""
        stages = self._stages(images)
        if self.transformer:
            return F.normalize(torch.cat(stages, 1), dim=1)
        stages = [F.avg_pool2d(stage, 3, 1, 1) for stage in stages]
        finest = stages[self._strides.index(self.stride)].shape[2:]
        stages = [F.interpolate(stage, finest, mode="bilinear", align_corners=False) for stage in stages]
        rows, columns = (side // self.stride for side in images.shape[-2:])
        return torch.cat(stages, 1)[:, :, :rows, :columns]

    def _stages(self, images: Tensor) -> list[Tensor]:
        """Each layer's features; images are padded to multiples of the largest stride, so that the grids lie on each other."""
        down, right = (-side % max(self._strides) for side in images.shape[-2:])
        images = F.pad((images - self.mean) / self.std, (0, right, 0, down), mode="replicate")
        options = {"norm": self.transformer, "output_fmt": "NCHW", "intermediates_only": True}
        return list(self.backbone.forward_intermediates(images, indices=self._kept, **options))  # type: ignore[operator]

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """A backbone's tensors under timm's names, from those of its authors; None where timm knows no conversion."""
        convert = getattr(import_module(type(self.backbone).__module__), "checkpoint_filter_fn", None)
        try:
            found = None if convert is None else dict(convert(dict(state), self.backbone))
        except Exception:  # it expects another file
            return None
        return found if found is not None and found.keys() == self.whole.keys() else None

    @torch.inference_mode()
    def check(self, height: int, width: int) -> None:
        """Raise InputError if the backbone does not take images of this size, or has layers on other grids than their strides'.

        Such are backbones of one size, and those with unpadded convolutions.
        """
        padded = [-(-side // max(self._strides)) * max(self._strides) for side in (height, width)]
        expected = [tuple(side // stride for side in padded) for stride in self._strides]
        try:
            sizes = [tuple(stage.shape[2:]) for stage in self._stages(torch.zeros(1, 3, height, width))]
        except (AssertionError, RuntimeError) as error:
            first = str(error).partition("\n")[0].rstrip(".")
            wrong = f"it does not take images of {height}x{width} pixels ({first})"
            advice = f"extract them with `size={self.side}`, or take another"
            raise InputError(wrong, parameter="backbone", advice=advice) from None
        if sizes != expected:
            raise InputError(f"{sizes}", parameter="backbone", expected=f"layers on grids of {expected}", advice="take another")


def usual(strides: Sequence[int]) -> list[int]:
    """The last block of a transformer, as AnomalyDINO; of stages those of stride 8 and 16, as PatchCore: earlier ones see
    little, and later ones are about the classes that the backbone was trained with.
    """
    chosen = [max(n for n, each in enumerate(strides) if each == stride) for stride in STRIDES if stride in strides]
    return [len(strides) - 1] if len(set(strides)) == 1 or not chosen else chosen


def create(backbone: str, fetch: bool = False) -> nn.Module:
    """A backbone by its name in timm, with random weights or those that timm fetches. Raises InputError."""
    library = timm()
    if not library.is_model(backbone):
        close = difflib.get_close_matches(backbone, library.list_models(), 3)
        expected = f"a model of timm, such as {' or '.join(close or ('wide_resnet50_2', 'vit_small_patch14_dinov2'))}"
        raise InputError(repr(backbone), parameter="backbone", expected=expected)
    model: nn.Module
    try:
        try:
            model = library.create_model(backbone, pretrained=fetch, dynamic_img_size=True)
        except TypeError:  # it takes any size, or one only
            model = library.create_model(backbone, pretrained=fetch)
    except RuntimeError as error:
        raise InputError(f"{error}".partition("\n")[0], parameter="backbone", subject=backbone) from None
    if not hasattr(model, "prune_intermediate_layers"):
        problem = "has no intermediate features in timm"
        raise InputError(problem, parameter="backbone", subject=backbone, advice="take another")
    return model


def fetched(backbone: str) -> dict[str, Tensor]:
    """The state dict of a backbone, which timm fetches or has in its cache. Raises InputError where neither works."""
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # which tells of every attempt
    try:
        with _offline_if_unreachable():
            return dict(create(backbone, fetch=True).state_dict())
    except InputError:
        raise
    except Exception as error:  # of whatever library talks to the network
        reason = f"{error}".partition("\n")[0].partition(". ")[0]
        problem = f"its weights cannot be fetched here ({reason})"
        advice = "fetch them where there is a network, and give the file as `weights`"
        raise InputError(problem, parameter="backbone", subject=backbone, advice=advice) from None


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Within, only the cache is asked where the host of the weights has no address: each file would be tried for 20 s."""
    timm()
    constants: Any = import_module("huggingface_hub.constants")
    offline = constants.HF_HUB_OFFLINE
    if not getproxies():  # a proxy may know the address
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def timm() -> Any:
    """The library. Raises InputError where it is not installed.

    A torchvision built for CUDA finds no operators beside a torch built for the CPU, and timm could not import it. It then
    gets the signatures of the two that it names when it is imported; no backbone calls them.
    """
    try:
        try:
            import_module("torchvision")
        except RuntimeError:
            _OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))  # type: ignore[no-untyped-call]
            for operator in ("nms", "qnms"):
                _OPERATORS[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        return import_module("timm")
    except (ImportError, RuntimeError) as error:
        problem = f"pretrained encoders need timm, which cannot be imported ({f'{error}'.partition(chr(10))[0]})"
        raise InputError(problem, advice="install it: pip install 'patchcli[pretrained]'") from None
