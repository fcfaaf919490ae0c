"""SENet: squeeze-and-excitation, one gate per channel (a row of Table 2)."""

import timm
from timm.layers.squeeze_excite import SEModule
from torch import nn

from ggam.methods.insertion import InsertedAttention, InsertionOptions, OpenGate


class SENet(InsertedAttention):
    """Squeeze-and-excitation: channels weighed by σ(W₂·ReLU(W₁·GAP(A))).

    Which network that is, with placement `blocks`:

    * `resnet50` and the others of which timm publishes a twin trained with SE from the start
      (`seresnet50`) become that twin, if published weights are wanted. The model's configuration then
      names the twin. Its weights come from another training than the plain network's: to compare on
      the same weights, give them by file, by their full name (`resnet50.a1_in1k`), or take
      placement `last`.
    * A network that has SE in its blocks, such as the twin itself, stays as it is.
    * Everything else gets an identity-safe module in each block or stage, see `InsertedAttention`;
      its last layer learns from the first step on, the one before it from the second.
    """

    source = "Hu et al., «Squeeze-and-Excitation Networks», 2018"

    @classmethod
    def published_backbone(cls, name: str, options: InsertionOptions) -> str:
        """`seNAME`, where timm has pre-trained weights for it and SE goes into the blocks."""
        if options.placement == "last" or not name.startswith(("resnet", "resnext")) or "." in name:
            return name
        known = timm.get_pretrained_cfg(f"se{name}") if timm.is_model(f"se{name}") else None
        return f"se{name}" if known is not None and known.has_weights else name

    @staticmethod
    def build_attention(channels: int) -> SEModule:
        """The module of timm with r = 16, its gate open and its last layer zero."""
        module = SEModule(channels, gate_layer=OpenGate)
        nn.init.zeros_(module.fc2.weight)
        assert module.fc2.bias is not None
        nn.init.zeros_(module.fc2.bias)
        return module

    def _insert(self) -> None:
        if not any(isinstance(module, SEModule) for module in self.backbone.modules()):
            super()._insert()
