"""The adversary: patch discriminators that learn to tell reconstructions from originals, and what they add to the loss.

One looks at single frames (PatchGAN, arXiv 1611.07004), one at clips, which sees flicker. Hinge loss with LeCam
regularisation (arXiv 2104.03310), an adaptive weight (VQGAN, arXiv 2012.09841) clamped from above, and a start late in
training, once there is something to refine.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vq.config import Configurable


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches: videos (b, 3, t, h, w) -> (b, 1, t', h', w'), higher for originals.

    Args:
        channels: of the first layer; they double twice.
        frames: extent of the convolutions in time: 1 looks at each frame by itself.
    """

    def __init__(self, channels: int = 64, frames: int = 1) -> None:
        super().__init__()
        self.frames = frames
        widths = [3, channels, 2 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, (frames, 4, 4), stride=(min(2, frames), 2, 2), padding=(frames // 2, 1, 1))
            for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths[2:])
        self.out = nn.Conv3d(widths[-1], 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        x = self.layers[0](video)
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            x = norm(layer(F.leaky_relu(x, 0.2)))
        return self.out(F.leaky_relu(x, 0.2))


class Adversary(Configurable, nn.Module):
    """Both discriminators and their game with the tokenizer, as one term of one loss.

    The discriminators' gradients come from detached reconstructions, the tokenizer's through discriminators whose
    weights count as constants: one backward pass and one optimizer serve both sides.

    Args:
        start: step at which the game begins; before it the adversary costs nothing.
        weight: of the adversarial term, once the adaptive weight has balanced it with the rest at the decoder's last
            layer.
        largest: bound of the adaptive weight.
        lecam: weight of LeCam, which draws the logits to the moving average of the other side's.
        channels: of the discriminators' first layers.
        learning_rate: of the discriminators, by AdamW.
        images, videos: whether there is a discriminator of frames, and of clips.
    """

    def __init__(
        self,
        start: int,
        weight: float = 0.1,
        largest: float = 1.0,
        lecam: float = 0.001,
        channels: int = 64,
        learning_rate: float = 4e-4,
        images: bool = True,
        videos: bool = True,
    ) -> None:
        super().__init__()
        if not images and not videos:
            raise ValueError("an adversary without images and without videos has nothing to look at")
        self.start, self.weight, self.largest, self.lecam = start, weight, largest, lecam
        self.learning_rate = learning_rate
        extents = [1] * images + [3] * videos
        self.discriminators = nn.ModuleList(PatchDiscriminator(channels, frames) for frames in extents)
        self.register_buffer("means", torch.zeros(len(extents), 2))  # of the logits of originals and reconstructions

    def forward(self, video: Tensor, reconstruction: Tensor, loss: Tensor, last: nn.Parameter):
        """Videos (b, 3, t, h, w), the loss so far and the decoder's last weight -> (term of the loss, logs)."""
        game, fooling, logs = 0, 0, {}
        for i, discriminator in enumerate(self.discriminators):
            constant = {name: p.detach() for name, p in discriminator.named_parameters()}
            fooling = fooling - functional_call(discriminator, constant, (reconstruction,)).float().mean()
            real, fake = discriminator(video).float(), discriminator(reconstruction.detach()).float()
            hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
            self.means[i].lerp_(torch.stack([real.detach().mean(), fake.detach().mean()]), 0.05)
            lecam = F.relu(real - self.means[i, 1]).square().mean() + F.relu(self.means[i, 0] - fake).square().mean()
            game = game + hinge + self.lecam * lecam
            name = "frames" if discriminator.frames == 1 else "clips"
            logs |= {f"{name}_original": real.detach().mean(), f"{name}_reconstruction": fake.detach().mean()}
        wanted, offered = (torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (loss, fooling))
        balance = (wanted / (offered + 1e-6)).clamp(max=self.largest).detach()
        return game + self.weight * balance * fooling, logs | {"game": game.detach(), "balance": balance}
