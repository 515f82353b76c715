"""LPIPS: how different two pictures look, by the features of a classifier (arXiv 1801.03924, version 0.1)."""

from importlib.resources import files

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from vq.pretrained import file_of

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet, for pictures in [-1, 1]


class LPIPS(nn.Module):
    """Distance of pictures, or of the frames of videos: 0 for equal ones, 0.1 is hard to see, 0.5 is another picture.

    Frozen, and never part of a checkpoint. Training takes VGG-16, published tables mostly AlexNet.

    Args:
        weights: a safetensors file, or hf://NAME/REPOSITORY/FILE, with the trunk, ``features.N.weight`` and
            ``.bias`` as torchvision names them, and the five linear layers, ``lin0.weight`` ... ``lin4.weight``. None:
            torchvision's trunk, downloaded at first use, and the linear layers that torchmetrics brings.
        net: ``vgg16`` or ``alex``.
    """

    def __init__(self, weights: str | None = None, net: str = "vgg16") -> None:
        super().__init__()
        if net not in ("vgg16", "alex"):
            raise ValueError(f"LPIPS has no net {net!r}: expected vgg16 or alex")
        trunk = vgg16() if net == "vgg16" else alexnet()
        ends = [i for i, layer in enumerate(trunk) if isinstance(layer, nn.ReLU)]
        if net == "vgg16":  # the last of each stage
            ends = [i for i in ends if i + 1 == len(trunk) or isinstance(trunk[i + 1], nn.MaxPool2d)]
        state = {k: v.float() for k, v in (downloaded(net) if weights is None else stored(weights)).items()}
        try:
            self.linear = nn.ParameterList(state.pop(f"lin{i}.weight") for i in range(len(ends)))
            trunk.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{weights} does not hold LPIPS of {net}: expected features.N.weight, features.N.bias and lin0 to lin4"
            ) from error
        starts = [0, *(end + 1 for end in ends[:-1])]
        self.stages = nn.ModuleList(trunk[a : b + 1] for a, b in zip(starts, ends, strict=True))
        self.mean, self.std = (nn.Parameter(torch.tensor(v).view(1, 3, 1, 1)) for v in (MEAN, STD))
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (n, 3, h, w), or videos (n, 3, t, h, w), in [-1, 1] -> distances (n,), the mean over the frames."""
        n = len(a)
        if a.ndim == 5:
            a, b = (rearrange(video, "n c t h w -> (n t) c h w") for video in (a, b))
        x, total = (torch.cat([a, b]) - self.mean) / self.std, 0
        for stage, weight in zip(self.stages, self.linear, strict=True):
            x = stage(x)
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            one, other = unit.chunk(2)
            total = total + ((one - other).square() * weight).sum(1).mean((1, 2))
        return total.view(n, -1).mean(1)


def vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for item in VGG16:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, item, 3, padding=1), nn.ReLU()]
            width = item
    return nn.Sequential(*layers)


def alexnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def stored(weights: str) -> dict[str, Tensor]:
    try:
        return load_file(file_of(weights))
    except Exception as error:  # a missing file, no network, or anything that is not safetensors
        raise ValueError(
            f"{weights}: no LPIPS weights can be read: expected a safetensors file, or hf://NAME/REPOSITORY/FILE"
        ) from error


def downloaded(net: str) -> dict[str, Tensor]:
    """torchvision's trunk, trained on ImageNet, and the linear layers that lie inside torchmetrics."""
    try:
        import torchvision

        model = torchvision.models.get_model("alexnet" if net == "alex" else net, weights="IMAGENET1K_V1")
    except Exception as error:  # not installed, or no network
        raise ValueError(
            "LPIPS needs the weights of an ImageNet classifier: give a safetensors file, or install torchvision and "
            f"let it download them ({type(error).__name__})"
        ) from error
    name = "vgg" if net == "vgg16" else net
    linear = torch.load(files("torchmetrics") / f"functional/image/lpips_models/{name}.pth", weights_only=True)
    trunk = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
    return trunk | {k.replace(".model.1", ""): v for k, v in linear.items()}
